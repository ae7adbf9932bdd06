"""``--to robustbench``: an entry of RobustBench's zoo, its network as a module, its weights, and its ``model_info``.

The module is plain torch. Its ``register`` adds the network to the zoo of the installed package, so that ``load_model``
finds it, which loads the weights strictly.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import BenchError
from bench.files import write_bytes
from bench.recipe import Norm, protocol_title
from bench.record import Record
from bench.zoo.exports import plain_resnet
from bench.zoo.exports.model import Loading, Model
from bench.zoo.exports.plain_resnet import ResNetClassifier

_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
_DATA = ("cifar10", "cifar100")
_THREATS: Mapping[Norm, str] = {"linf": "Linf", "l2": "L2"}

_TAIL = '''

class {name}(ResNetClassifier):
    """{title}."""

    def __init__(self) -> None:
        super().__init__({arguments})


def register() -> None:
    """Add it to the zoo of the package, so that load_model finds it, and its file below models/."""
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
    from robustbench.model_zoo.models import model_dicts

    models = model_dicts[BenchmarkDataset("{dataset}")][ThreatModel("{threat}")]
    models["{name}"] = {{"model": {name}, "gdrive_id": "where its file will be"}}
'''


def write_robustbench(model: Model, folder: Path) -> Loading:
    """Write ``NAME.py``, and below ``models/`` and ``model_info/`` the files that the package looks for there.

    Raises:
        BenchError: it is an encoder alone, its data are not those of RobustBench, or its network is no ResNet of ours.
    """
    record = _record(model)
    form, name = _form(model), _name(model, record)
    threat = _THREATS[record.read_recipe().downstream.threat.norm]
    tensors, images = _renamed(model), model.images()
    plain = ResNetClassifier(**form).eval()
    plain.load_state_dict(tensors)
    with torch.no_grad():
        model.check_same(plain(images), images, "robustbench")
    below = f"{record.dataset}/{threat}/{name}"
    module, weights, info = f"{name}.py", f"models/{below}.pt", f"model_info/{below}.json"
    for path in (weights, info):
        (folder / path).parent.mkdir(parents=True)
    tail = _TAIL.format(
        name=name,
        title=f"{model.title} {model.year} under {protocol_title(record.protocol)}",
        arguments=", ".join(f"{key}={value!r}" for key, value in form.items()),
        dataset=record.dataset,
        threat=threat,
    )
    write_bytes(folder / module, (Path(plain_resnet.__file__).read_text("utf-8") + tail).encode())
    torch.save(tensors, folder / weights)
    write_bytes(folder / info, (json.dumps(_info(model, record), indent=2, ensure_ascii=False) + "\n").encode())
    code = f'import torch, {name}\nmodel = {name}.{name}().eval()\nmodel.load_state_dict(torch.load("{weights}"))\n'
    files = (
        (module, "the network, in plain torch; `register()` adds it to the zoo of robustbench"),
        (weights, "the weights, where `load_model` looks for them"),
        (info, "the accuracies in RobustBench's form; complete authors and venue"),
    )
    return Loading(code, "pytorch", "torch", files)


def _record(model: Model) -> Record:
    record = model.record
    if record is None:
        raise BenchError("--to robustbench: an entry is a whole classifier. Add --protocol slf, alf or aff.")
    if record.dataset not in _DATA:
        raise BenchError(
            f"--to robustbench: RobustBench has {' and '.join(_DATA)}, and this classifier was evaluated on "
            f"{record.dataset}. Type --to safetensors, or --to onnx, which take any network."
        )
    finetune = record.read_recipe().finetune
    if finetune and finetune.resized_from:
        raise BenchError(
            f"--to robustbench: its accuracies are of images of {record.dataset} that were resized to those of its "
            "pre-training, and RobustBench gives them as they are. Type --to safetensors, or --to onnx."
        )
    return record


def _form(model: Model) -> dict[str, Any]:
    settings = model.settings
    if settings.arch not in _BLOCKS:
        raise BenchError(
            f"--to robustbench: its encoder is a {settings.arch}, and what can be written as plain torch is "
            f"{', '.join(_BLOCKS)}. Type --to safetensors, or --to onnx, which take any network."
        )
    return {
        "blocks": _BLOCKS[settings.arch],
        "bottleneck": settings.arch == "resnet50",
        "width": settings.width,
        "stem_padding": settings.stem_padding,
        "imagenet_stem": settings.options.get("stem") == "imagenet",
        "classes": model.classes,
    }


def _name(model: Model, record: Record) -> str:
    """Return the name of the entry, which is also that of its module and class: DeACL2022_SLF."""
    title = re.sub(r"\W", "", model.title, flags=re.ASCII)
    return f"{'' if title[:1].isalpha() else 'Model'}{title}{model.year}_{record.protocol.upper().replace('-', '_')}"


def _renamed(model: Model) -> dict[str, Tensor]:
    """Return the weights under the names of the plain module; without normalisation, its constants are 0 and 1."""
    ours = {"encoder.backbone.": "", "encoder.normalise.": "", "head.": "linear."}
    found = {
        theirs + name.removeprefix(prefix): each.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, each in model.network.state_dict().items()
        for prefix, theirs in ours.items()
        if name.startswith(prefix)
    }
    return {"mean": torch.zeros(3), "std": torch.ones(3), **found}


def _info(model: Model, record: Record) -> dict[str, Any]:
    """Return the ``model_info`` of the entry; its schema writes percent and the radius as text."""
    arch, width = model.settings.arch.replace("resnet", "ResNet-"), model.settings.width
    levels = round(record.ra.eps * 255)
    info = {
        "link": model.link,
        "name": model.paper,
        "authors": "",
        "additional_data": record.pretrained_on is not None,
        "number_forward_passes": 1,
        "dataset": record.dataset,
        "venue": "",
        "architecture": arch if width == 64 else f"{arch}, width {width}",
        "eps": f"{levels}/255" if levels and abs(record.ra.eps * 255 - levels) < 1e-6 else f"{record.ra.eps:g}",
        "clean_acc": f"{100 * record.sa.accuracy:.2f}",
        "reported": "",
    }
    if record.aa:
        info |= {"autoattack_acc": f"{100 * record.aa.outcome.accuracy:.2f}", "unreliable": bool(record.aa.warnings)}
        if record.aa.outcome.n < record.sa.n:
            info["footnote"] = f"AutoAttack on {record.aa.outcome.n} of {record.sa.n} test images"
    return info
