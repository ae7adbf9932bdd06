"""``--to safetensors``: weights under our names, and the network itself as a program of ``torch.export``.

The program holds no weights and no Python code: a graph of PyTorch's operators, so that any architecture and width can
be loaded without its source. ``bench import`` reads the form from the header of the weights.
"""

import json
import warnings
from copy import deepcopy
from pathlib import Path

import torch

from bench.errors import BenchError, short
from bench.files import write_bytes
from bench.zoo.exports.model import Loading, Model
from bench.zoo.tensors import EXPORTED, packed

_CODE = """\
import torch
from safetensors.torch import load_file
model = torch.export.load("network.pt2").module()
model.load_state_dict(load_file("model.safetensors"), assign=True)
"""


def write_program(model: Model, folder: Path) -> Loading:
    """Write ``model.safetensors`` and ``network.pt2``; raises BenchError if the network is no graph of operators."""
    form = model.settings.model_dump(mode="json", exclude={"normalisation", "constants"})
    form |= {"normalisation": "constants" if model.constants else "none", "constants": model.constants}
    said = {"encoder": form, "image_shape": model.image_shape, "title": model.title, "year": model.year}
    said |= {"trained_on": model.trained_on, "trained_on_sha256": model.trained_on_sha256}
    tensors = model.network.state_dict()
    header = {"format": "pt", EXPORTED: json.dumps(said, sort_keys=True)}
    write_bytes(folder / "model.safetensors", packed(tensors, header))
    images = model.images()
    bare = deepcopy(model.network).requires_grad_(False).to("meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights without memory are meant
        try:
            batch = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(bare, (images.to("meta"),), dynamic_shapes=batch)
            torch.export.save(program, folder / "network.pt2")
            loaded = torch.export.load(folder / "network.pt2").module()
            loaded.load_state_dict(tensors, assign=True)
            with torch.no_grad():
                found = loaded(images)
        except Exception as error:  # torch.export raises many kinds, for what it cannot follow
            raise BenchError(
                f"--to safetensors: torch.export cannot follow the network {model.settings.arch} "
                f"({short(error)}). Type --to onnx"
            ) from None
    model.check_same(found, images, "safetensors")
    return Loading(
        _CODE,
        "pytorch",
        f"torch {torch.__version__.partition('+')[0]} or newer, and safetensors",
        (
            ("model.safetensors", "the weights; `bench import` takes them back"),
            ("network.pt2", "the network without weights, from `torch.export`, in eval mode"),
        ),
    )
