"""A submission: the records of a run with its card, the digests of its weights and the commands, in one folder."""

import hashlib
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.attack import ATTACKS
from bench.data import typed_source
from bench.errors import BenchError, listed
from bench.files import file_digest, write_bytes
from bench.folders import new_folder
from bench.method import METHODS
from bench.nn import ENCODERS
from bench.own_code import own_imports, own_text, to_load
from bench.recipe import RELEASED, canonical_digest
from bench.record import Submission, SubmittedWeights, save_record, signed
from bench.registry import Registry
from bench.report.model_export.card import card
from bench.report.model_export.write import model_of
from bench.report.reproduce import reproduction
from bench.results import counted, escape
from bench.run import Finished, finished_in, load_encoder, run_folder, to_finish, unfinished
from bench.zoo import Loading

LARGEST = 1_000_000
"""Bytes of a file of weights that goes into the folder; a larger one is described alone."""

_REGISTRIES: dict[str, Registry[Any]] = {"method": METHODS, "encoder": ENCODERS, "attack": ATTACKS}
_ENCODER = "weights/encoder.safetensors"


class Submitted(NamedTuple):
    """What was written."""

    folder: Path
    submission: Submission
    left_out: tuple[str, ...]
    """What to say of each record that was corrected."""


def submission_name(path: Path) -> str:
    """Return the usual name of the submission of the run in ``path``: no other person's or machine's has the same."""
    return f"{path.name}-{canonical_digest(sorted(each.record.sha256 for each in finished_in(path)))[:8]}"


def write_submission(
    runs_dir: Path, run: str, folder: Path, *, by: str, results_dir: Path, place: Path | None = None
) -> Submitted:
    """Write the submission of every finished protocol of ``run`` to the new ``folder``.

    Args:
        runs_dir: where runs are kept.
        run: as in :func:`bench.run.run_folder`.
        folder: one that does not exist, or is empty.
        by: who submits.
        results_dir: whose corrections say which records no longer count; these are left out.
        place: where a reviewer will have the folder, for the commands that verify it; None: at ``folder``.

    Raises:
        BenchError: an unknown run, one that is not finished, has an evaluation that failed a check of the doctor, or
            whose weights are missing or not those of its records, or a folder that is not empty. Nothing is written.
    """
    by, path = signed(by), run_folder(runs_dir, run)
    every = sorted(finished_in(path), key=lambda each: each.path)
    if not (path / "encoder.safetensors").is_file():
        raise BenchError(
            f"the run {path.name} has no encoder.safetensors: it is not finished, or its weights were removed, and "
            f"nobody could verify it. {to_finish(path)}"
        )
    if not every:
        raise unfinished(path)
    counts = counted(every, results_dir)
    counts.refuse_none(f"the run {path.name}")
    found = counts.found
    _refuse_failed(path, found)
    code = [_Code.of(name, kind) for name, kind in _own_code(found).items()]
    weights = _weights(path, found)
    with new_folder(folder) as made:
        records = {}
        for each in found:
            file = save_record(made / "records", each.record)
            records[file.relative_to(made).as_posix()] = each
        for name, (file, described) in weights.items():
            if described.included:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, made / name)
        descriptions = {name: described for name, (_, described) in weights.items()}
        submission = Submission(
            by=by,
            records={name: each.record.sha256 for name, each in records.items()},
            weights=descriptions,
            commands=(*_making(found), *(verify := _verifying(place or folder, records, descriptions, code))),
            date=datetime.now(UTC).replace(microsecond=0),
        )
        files = {path: content for own in code for path, content in own.files.items()}
        files["README.md"] = _card(path, found, submission, code, verify).encode()
        for name, content in files.items():
            write_bytes(made / name, content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        submission = submission.model_copy(update={"files": digests}).sealed()
        submission.save(made)
    return Submitted(folder, submission, counts.left_out)


def _refuse_failed(path: Path, found: Sequence[Finished]) -> None:
    failed = [f"{each.protocol}, {one.said}" for each in found for one in each.record.diagnosed("fail")]
    if failed:
        raise BenchError(
            f"{listed('the evaluation cannot be believed, so it is no result to submit', failed)}\n"
            f"What to do says: {shlex.join(['bench', *to_load(_own_code(found)), 'doctor', str(path)])}"
        )


def _own_code(found: Iterable[Finished]) -> dict[str, str]:
    return {name: kind for each in found for name, kind in each.record.own_code.items()}


class _Code(NamedTuple):
    """The code of an object of the submitter's own, in a submission."""

    kind: str
    object: str
    """Its name in the file."""
    path: str
    """Of the file that the object is in."""
    files: dict[str, bytes]
    """That file, and those that it imports, by their paths."""
    imports: str | None
    """The folder in which Python finds what it imports; None: it imports nothing of the submitter's own."""

    @classmethod
    def of(cls, name: str, kind: str) -> "_Code":
        """Return it for the object called ``name``; raises BenchError if its file is not loaded."""
        _REGISTRIES[kind].get(name)
        known, _, digits = name.partition("+")
        folder = f"code/{known}-{digits}"
        imported = {f"{folder}/{path}": text for path, text in own_imports(name).items()}
        texts = {f"{folder}.py": own_text(name) or "", **imported}
        files = {path: text.encode() for path, text in texts.items()}
        return cls(kind, known, f"{folder}.py", files, folder if imported else None)

    @property
    def stands(self) -> str:
        """What to type in this folder for FILE.py, which the commands that train it again have."""
        before = f", and the command begins with `env PYTHONPATH={self.imports}`" if self.imports else ""
        return f"To train it again with this {self.kind}, FILE.py is `{self.path}`{before}."

    @property
    def described(self) -> Iterator[tuple[str, str]]:
        """Each file with what it is, and the digest by which it is recognised."""
        for path, content in self.files.items():
            what = "the code of" if path == self.path else "what is imported by"
            digest = hashlib.sha256(content).hexdigest()
            yield path, f"{what} the {self.kind} {self.object}, which verifying needs; SHA-256 `{digest}`"


def _weights(path: Path, found: Sequence[Finished]) -> dict[str, tuple[Path, SubmittedWeights]]:
    """Return each file of weights of the run in ``path``, by its name in the submission, with its description.

    Raises BenchError if one is missing or is not that of its record.
    """
    encoder = load_encoder(path / "encoder.safetensors").sha256
    files = {_ENCODER: (path / "encoder.safetensors", encoder)}
    for each in found:
        if each.record.encoder_sha256 != encoder:
            raise BenchError(
                f"{path / 'encoder.safetensors'} is not the encoder of {each.path / 'record.json'}. Run it again."
            )
        each.classifier(torch.device("cpu"))
        sha256 = each.record.classifier_sha256
        if each.protocol != RELEASED:
            file = each.path / f"{each.protocol}.safetensors"
            files[_weights_name(each)] = file, sha256
    return {name: (file, _described(file, sha256)) for name, (file, sha256) in files.items()}


def _weights_name(each: Finished) -> str:
    """Return where the weights of the classifier are in a submission."""
    return _ENCODER if each.protocol == RELEASED else f"weights/{each.path.name}/{each.protocol}.safetensors"


def _described(file: Path, sha256: str) -> SubmittedWeights:
    size = file.stat().st_size
    return SubmittedWeights(sha256=sha256, file_sha256=file_digest(file), size=size, included=size <= LARGEST)


def _making(found: Iterable[Finished]) -> list[str]:
    """Return what makes the records again."""
    return list(dict.fromkeys(reproduction(each.record).command for each in found))


def _verifying(
    folder: Path, records: Mapping[str, Finished], weights: Mapping[str, SubmittedWeights], code: Sequence[_Code]
) -> list[str]:
    """Return what verifies each of ``records`` of the submission at ``folder``; PATH stands for the author's data."""
    loading = [word for own in code for word in (f"--{own.kind}", f"{folder / own.path}:{own.object}")]
    imports = ":".join(str(folder / own.imports) for own in code if own.imports)
    begin = ["env", f"PYTHONPATH={imports}", "bench"] if imports else ["bench"]
    commands = []
    for name, each in records.items():
        file = _weights_name(each)
        kept = str(folder / file) if weights[file].included else Path(file).name
        words = [*begin, *loading, "verify", str(folder / name), "--weights", kept, "--by", "NAME"]
        data = typed_source(each.record.dataset)
        own = [] if data == each.record.dataset else ["--dataset", data]
        commands.append(shlex.join([*words, *own]))
    return commands


def _card(
    path: Path, found: Sequence[Finished], submission: Submission, code: Sequence[_Code], verify: Sequence[str]
) -> str:
    files = [
        (name, f"{each.size:,} bytes, SHA-256 `{each.file_sha256}`{'' if each.included else '; not in this folder'}")
        for name, each in submission.weights.items()
    ]
    own = "".join(f', {each.kind}="{each.path}:{each.object}"' for each in code if each.kind != "attack")
    folders = [own.imports for own in code if own.imports]
    begin = f"import sys\n\nsys.path += {folders!r}\n\n" if folders else ""
    loading = Loading(
        f'{begin}import bench\n\nencoder = bench.load_encoder("weights/encoder.safetensors"{own})\n',
        "pytorch",
        "ssl-robustness-bench",
        (
            *files,
            *(described for each in code for described in each.described),
            *((name, "a record, until it is published") for name in submission.records),
        ),
    )
    records = [each.record for each in found]
    commands = "\n".join(verify)
    text = card(model_of(path, None), loading, records)
    stands = "".join(f" {own.stands}" for own in code)
    return f"{text}\n## Verify it\n\nSubmitted by {escape(submission.by)}.{stands}\n\n```bash\n{commands}\n```\n"
