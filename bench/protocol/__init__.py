"""Protocols: from a pre-trained encoder to a classifier, the same way for every method."""

from bench.protocol.slf import SLFStage

__all__ = ["SLFStage"]
