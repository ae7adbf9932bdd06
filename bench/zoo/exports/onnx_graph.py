"""``--to onnx``: one graph with its weights, for batches of any size, checked with onnxruntime."""

import logging
import warnings
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from bench.errors import BenchError, short
from bench.zoo.exports.model import Loading, Model, need

OPSET = 18
"""What torch writes without a conversion, and every onnxruntime since 1.14 reads."""


def write_onnx(model: Model, folder: Path) -> Loading:
    """Write ``model.onnx``; raises BenchError if the extra is missing, or the network cannot be expressed."""
    need("onnx", "onnx", "onnxscript", "onnxruntime")
    path, images = folder / "model.onnx", model.images()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                model.network,
                (images,),
                path,
                input_names=["images"],
                output_names=[model.output],
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # of torch.export, of the converter, or of the disk
            raise BenchError(
                f"--to onnx: the network {model.settings.arch} cannot be expressed in opset {OPSET} "
                f"({short(error)}). Type --to safetensors"
            ) from None
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = model.images(5)  # another batch than that of the export
    model.check_same(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), images, "onnx")
    channels, height, width = model.image_shape
    code = f"""\
import numpy, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
images = numpy.random.rand(2, {channels}, {height}, {width}).astype("float32")
{model.output} = session.run(None, {{"images": images}})[0]
"""
    files = (("model.onnx", f"graph and weights, opset {OPSET}, for batches of any size"),)
    return Loading(code, "onnx", "onnxruntime", files)
