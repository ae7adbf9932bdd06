"""Submissions among the results: checked, and shown once their records are where published records are."""

from pathlib import Path

from bench.errors import BenchError
from bench.record import Submission, load_submission, submission_folders, submitted_record, weights_needed
from bench.results.groups import LeftOut
from bench.results.measured import load_measured


def read_submissions(results_dir: Path) -> tuple[dict[str, str], list[LeftOut]]:
    """Return who submitted each record, by its digest, and each submission that cannot be trusted, with its fault."""
    submitters: dict[str, str] = {}
    faults = []
    for folder in submission_folders(results_dir):
        try:
            submission = _checked(folder)
            submitters |= dict.fromkeys(submission.records.values(), submission.by)
        except BenchError as error:
            reason = str(error).replace(f"{folder}/", "")
            faults.append(LeftOut(file=folder.relative_to(results_dir).as_posix(), reason=reason))
    return submitters, faults


def _checked(folder: Path) -> Submission:
    """Return the submission in ``folder``; BenchError if a record is not sound, or its weights are not described."""
    submission = load_submission(folder)
    digests = {}
    for name, expected in submission.records.items():
        record = load_measured(submitted_record(folder, name, expected)).record
        if record.sha256 != expected:
            raise BenchError(f"{name} is not the record that was submitted. Submit the run again.")
        digests[name] = record.encoder_sha256, record.classifier_sha256
    if lacking := weights_needed(digests, submission.weights):
        raise BenchError(f"the weights of {lacking} are not described. Submit the run again.")
    return submission
