"""Weights in and out of files."""

from bench.zoo.tensors import TensorFile, digest, load_tensors, save_tensors

__all__ = ["TensorFile", "digest", "load_tensors", "save_tensors"]
