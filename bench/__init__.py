"""How robust is a self-supervised encoder, and what did it cost? One benchmark under identical conditions."""

__version__ = "0.1.0"
