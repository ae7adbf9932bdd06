"""Weights in and out: our own files of tensors, and checkpoints that somebody else wrote.

**What an imported encoder is.** :func:`import_checkpoint` reads a foreign file and returns a :class:`ForeignEncoder`:
tensors under the names of :class:`bench.nn.Encoder`, the :class:`bench.recipe.EncoderSettings` that build the network
around them, and an :class:`ImportReport` of what it took the file for. ``bench.run`` makes an encoder file of it like
any other, an ``EncoderFile`` whose ``Origin`` has ``imported`` (title, year, form, report) in place of the recipe of a
run. From there on it is treated like an encoder of ours: protocols, attacks, resume, records.

**What its record says.** ``method`` is ``imported``, ``title`` and ``year`` are those of the import, ``fidelity`` is
``native``, no cost is of a ``stage:``, and ``recipe.config`` holds the digest of the weights, so two imports are never
taken for two seeds of one. Boards mark such a row as *re-evaluated*: our measurement of weights that are not ours.

**How a foreign file is evaluated.** ``bench evaluate FILE`` calls ``bench.run.load_encoder``, which imports what is not
one of our files. Nothing is written but the folder of the run. What has to be asked (padding, normalisation) is asked
with the ``bench import`` command to type, whose output can then be evaluated.

**A layout** is one row of the table in ``bench.zoo.layouts``, which is tried in order: names that show it, the prefix
of the network, the part of the names that belongs to each branch of batch-norm, and the padding and normalisation of
its origin.

**An export** is written by one of :data:`FORMATS`, one small file each in ``bench.zoo.exports``: it writes the weights
of a :class:`Model`, checks that what was written computes the same, and returns the lines that load it. The folder and
the model card around it are those of ``bench.report.model_export``.
"""

from bench.zoo.checkpoint import is_foreign
from bench.zoo.constants import CONSTANTS, describe_constants, normalisation_settings, parse_constants
from bench.zoo.exports import FORMATS, Loading, Model
from bench.zoo.facts import ImportChoices
from bench.zoo.foreign import ForeignEncoder, ImportReport, import_checkpoint, short_name
from bench.zoo.layouts import ORIGINS
from bench.zoo.released.network import released_tensors
from bench.zoo.released.package import robustbench_package
from bench.zoo.released.weights import released_preprocessing
from bench.zoo.tensors import TensorFile, digest, load_tensors, misfits, save_tensors
from bench.zoo.weights import fit_weights, read_weights

__all__ = [
    "CONSTANTS",
    "FORMATS",
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
    "import_checkpoint",
    "is_foreign",
    "load_tensors",
    "misfits",
    "normalisation_settings",
    "parse_constants",
    "read_weights",
    "released_preprocessing",
    "released_tensors",
    "robustbench_package",
    "save_tensors",
    "short_name",
]
