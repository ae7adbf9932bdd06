"""Exports: the network of a run in another format, with a model card, in a folder or on the Hub; submissions."""

from bench.report.model_export.hub import check_repository, check_token, push
from bench.report.model_export.submission import Submitted, submission_name, write_submission
from bench.report.model_export.write import Exported, write_export

__all__ = [
    "Exported",
    "Submitted",
    "check_repository",
    "check_token",
    "push",
    "submission_name",
    "write_export",
    "write_submission",
]
