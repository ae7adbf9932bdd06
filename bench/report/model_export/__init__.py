"""Exports: the network of a run in another format, with a model card, in a folder or on the Hugging Face Hub."""

from bench.report.model_export.hub import check_repository, check_token, push
from bench.report.model_export.write import Exported, write_export

__all__ = ["Exported", "check_repository", "check_token", "push", "write_export"]
