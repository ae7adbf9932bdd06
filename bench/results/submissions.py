"""Submissions among the results: checked, and shown once their records are where published records are."""

from pathlib import Path

from bench.errors import BenchError
from bench.record import load_submission, submission_folders, submitted_record, weights_needed
from bench.results.groups import LeftOut
from bench.results.measured import load_measured


def submission_faults(results_dir: Path) -> list[LeftOut]:
    """Return the submissions under ``results_dir`` that cannot be trusted, each with its first fault."""
    faults = []
    for folder in submission_folders(results_dir):
        try:
            _check(folder)
        except BenchError as error:
            reason = str(error).replace(f"{folder}/", "")
            faults.append(LeftOut(file=folder.relative_to(results_dir).as_posix(), reason=reason))
    return faults


def _check(folder: Path) -> None:
    """Raise BenchError if a record of the submission in ``folder`` is not sound, or its weights are not described."""
    submission = load_submission(folder)
    digests = {}
    for name, expected in submission.records.items():
        record = load_measured(submitted_record(folder, name)).record
        if record.sha256 != expected:
            raise BenchError(f"{name} is not the record that was submitted. Submit the run again.")
        digests[name] = record.encoder_sha256, record.classifier_sha256
    if lacking := weights_needed(digests, submission.weights):
        raise BenchError(f"the weights of {lacking} are not described. Submit the run again.")
