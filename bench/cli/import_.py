"""``bench import``: an encoder file of ours from a checkpoint that somebody else wrote."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bench.run import EncoderFile


def import_(
    file: Annotated[Path, typer.Argument(help="A checkpoint of PyTorch, or safetensors.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write the encoder; default: here, as NAME-encoder.safetensors.")
    ] = None,
    origin: Annotated[
        str | None, typer.Option(help="The method that wrote it, where the file does not show it: deacl, air, rocl.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option(help="Which batch-norm of several: adversarial or clean; default: adversarial.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="Which network of several: the beginning of its names.")] = None,
    stem_padding: Annotated[int | None, typer.Option(min=0, max=2, help="Zero padding of a 3x3 stem.")] = None,
    normalisation: Annotated[
        str | None,
        typer.Option(
            metavar="none|cifar|imagenet|MEANS/STDS",
            help="How its input was normalised.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="For tables; default: origin and name of the file.")] = None,
    year: Annotated[
        int | None, typer.Option(min=1900, max=9999, help="Of its paper; default: the origin's, or the present one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the file is; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the file is as JSON on stdout.")] = False,
) -> None:
    """Import an encoder that was trained elsewhere: DeACL, solo-learn, RoCL, ACL, AdvCL, torchvision and more.

    Nothing in the file is run. What it does not say, and no shape shows, is asked for.

    Examples:
      bench import deacl.ckpt
      bench import acl.pt --branch clean --output acl-clean.safetensors
      bench import resnet18.pth --stem-padding 1 --normalisation cifar
    """
    from bench.run import import_encoder
    from bench.zoo import ImportChoices, short_name

    choices = ImportChoices(origin, branch, network, stem_padding, normalisation)
    encoder = import_encoder(file, choices, title=title, year=year)
    path = output or Path(f"{short_name(file)}-encoder.safetensors")
    if not dry_run:
        encoder.create(path)
    _say(encoder, None if dry_run else path, as_json, dated=year is not None)


def _say(encoder: "EncoderFile", path: Path | None, as_json: bool, *, dated: bool) -> None:
    """Print what ``encoder`` is, and whether its year is a guess: ``dated``, the user named one."""
    from bench.own_code import is_own, to_load
    from bench.zoo import NO_ORIGIN

    known = encoder.origin.imported
    assert known is not None
    assert known.report is not None
    report = known.report
    if as_json:
        found = {**known.model_dump(mode="json"), "encoder_sha256": encoder.sha256}
        print(json.dumps({**found, "path": None if path is None else str(path)}, indent=1))
        return
    print(f"{known.title} {known.year}")
    if report.origin == NO_ORIGIN and not dated:
        print("year: the present one, because the file does not show its paper; --year changes it")
    print(f"origin: {report.origin} (layout {report.layout})")
    print(f"architecture: {known.encoder.described}, {report.features} features")
    if not known.encoder.from_outside:
        print(f"stem: {report.stem} ({report.stem_from})")
        print(f"batch-norm: {report.batch_norm}")
    print(f"normalisation: {report.normalisation} ({report.normalisation_from})")
    print(f"taken: {report.tensors} tensors" + (f" below {report.network}" if report.network else ""))
    for name, what in report.dropped.items():
        print(f"left out, {name}: {what}")
    if report.origin == NO_ORIGIN:
        print(f"assumed: what leaves no trace in a file, such as strides, pooling and ReLU, is as in {report.arch}")
    if report.caution:
        print(report.caution)
    if path:
        print(f"encoder: {path}")
        loading = to_load({report.arch: "encoder"} if is_own(report.arch) else {})
        words = ["bench", *loading, "evaluate", str(path), "--dataset", encoder.example_data]
        print(f"evaluate it with: {shlex.join(words)}")
