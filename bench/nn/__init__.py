"""Networks: encoders, and the heads that come and go on top of them."""

from bench.nn.branches import branches
from bench.nn.encoder import ENCODERS, Encoder, Normalise, build_encoder
from bench.nn.heads import Classifier, mlp

__all__ = ["ENCODERS", "Classifier", "Encoder", "Normalise", "branches", "build_encoder", "mlp"]
