"""Formats of exports: one small file each, which writes weights and says how to load them without the bench."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bench.zoo.exports.libraries import write_timm, write_torchvision
from bench.zoo.exports.model import Loading, Model
from bench.zoo.exports.onnx_graph import write_onnx
from bench.zoo.exports.program import write_program
from bench.zoo.exports.robustbench import write_robustbench

FORMATS: Mapping[str, Callable[[Model, Path], Loading]] = {
    "safetensors": write_program,
    "torchvision": write_torchvision,
    "timm": write_timm,
    "onnx": write_onnx,
    "robustbench": write_robustbench,
}
"""By the name for ``--to``: writes the files of a model to a folder; raises BenchError where it cannot be expressed."""

__all__ = ["FORMATS", "Loading", "Model"]
