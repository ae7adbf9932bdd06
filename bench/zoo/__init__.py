"""Saving and loading weights."""

from bench.zoo.tensors import TensorFile, digest, load_tensors, save_tensors

__all__ = ["TensorFile", "digest", "load_tensors", "save_tensors"]
