"""Weights in and out: our own files of tensors, and checkpoints that somebody else wrote.

**In.** :func:`import_checkpoint` reads a foreign file as plain data and returns a :class:`ForeignEncoder`: tensors
under the names of :class:`bench.nn.Encoder`, the settings that build the network around them, and an
:class:`ImportReport` of what it took the file for. A layout is one row of the table in ``bench.zoo.layouts``.
``bench.run`` makes an encoder file of it like any other, with the report in place of the recipe of a run.

**Out.** Each of :data:`FORMATS`, a small file in ``bench.zoo.exports``, writes the weights of a :class:`Model`, checks
that what was written computes the same, and returns the lines that load it. ``bench.report.model_export`` makes the
folder and the model card around it.
"""

from bench.zoo.checkpoint import is_foreign
from bench.zoo.constants import CONSTANTS, describe_constants, normalisation_settings, parse_constants
from bench.zoo.exports import FORMATS, Loading, Model
from bench.zoo.facts import ImportChoices
from bench.zoo.foreign import NO_ORIGIN, ForeignEncoder, ImportReport, import_checkpoint, short_name
from bench.zoo.layouts import ORIGINS
from bench.zoo.released.network import released_tensors
from bench.zoo.released.package import robustbench_package
from bench.zoo.released.weights import released_preprocessing
from bench.zoo.tensors import TensorFile, digest, load_metadata, load_tensors, misfits, save_tensors, sealed_bytes
from bench.zoo.weights import fit_weights, form_channels, image_channels, read_weights

__all__ = [
    "CONSTANTS",
    "FORMATS",
    "NO_ORIGIN",
    "ORIGINS",
    "ForeignEncoder",
    "ImportChoices",
    "ImportReport",
    "Loading",
    "Model",
    "TensorFile",
    "describe_constants",
    "digest",
    "fit_weights",
    "form_channels",
    "image_channels",
    "import_checkpoint",
    "is_foreign",
    "load_metadata",
    "load_tensors",
    "misfits",
    "normalisation_settings",
    "parse_constants",
    "read_weights",
    "released_preprocessing",
    "released_tensors",
    "robustbench_package",
    "save_tensors",
    "sealed_bytes",
    "short_name",
]
