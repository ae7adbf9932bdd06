"""``bench evaluate``: protocols and attacks on a trained encoder."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import _options as option
from bench.cli._devices import Devices, screen, together
from bench.cli._progress import monitored
from bench.cli._runs import announce, reading, say_weights, show_records
from bench.trackers import tracked


def evaluate(
    encoder: Annotated[
        str,
        typer.Argument(help="An encoder file, its run or a checkpoint; or timm:NAME, FILE.py:NAME, robustbench:NAME."),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(help="Where the data of pre-training are; for an imported encoder: what to evaluate it on."),
    ] = None,
    finetune_dataset: option.FinetuneDataset = None,
    protocols: option.Protocols = None,
    preset: option.Preset = None,
    precision: option.Precision = None,
    attacks: option.Attacks = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of protocols and attacks; default: that of pre-training.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The file of the weights of a network.")] = None,
    normalisation: Annotated[
        str | None,
        typer.Option(
            metavar="none|cifar|imagenet|MEANS/STDS", help="Of its input; default: its library's, none for FILE.py."
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="Which network of several in the file of its weights: the beginning of its names."),
    ] = None,
    set_: option.Set = None,
    corruptions: option.Corruptions = None,
    dry_run: option.DryRun = False,
    recipe: option.ShowRecipe = False,
    device: option.Device = None,
    devices: Devices = None,
    threads: option.Threads = None,
    track: option.Track = None,
    runs_dir: option.RunsDir = Path("runs"),
    results_dir: option.ResultsDir = option.LOCAL_RESULTS,
    data_dir: option.DataDir = Path("data"),
    data_in: option.DataIn = "auto",
    as_json: option.AsJson = False,
) -> None:
    """Evaluate an encoder file, and write one record a protocol.

    An encoder in its run's folder is evaluated there; a file from elsewhere gets its own folder in --runs-dir.

    Examples:
      bench evaluate runs/NAME/encoder.safetensors --protocols alf,aff
      bench evaluate runs/NAME/encoder.safetensors --set evaluate.pgd_steps=100 --set threat.eps=4/255
      bench evaluate runs/NAME/encoder.safetensors --finetune-dataset stl10
      bench evaluate encoder.safetensors --dataset npz:my.npz
      bench evaluate deacl.ckpt --dataset cifar10
      bench evaluate timm:vit_tiny_patch16_224 --weights vit.safetensors --dataset cifar10
      bench evaluate ./net.py:make_encoder --weights net.pt --normalisation cifar --dataset cifar10
      bench evaluate robustbench:Carmon2019Unlabeled --devices 4
    """
    from bench.parallel import first_then_others, is_first, on_first
    from bench.run import (
        EvaluationRequest,
        WeightChoices,
        encoder_path,
        execute,
        prepare_evaluation,
        threads_as_begun,
        threads_open,
    )

    with together(devices, device, threads) as known:
        request = EvaluationRequest(
            encoder=encoder_path(encoder, runs_dir),
            weights=WeightChoices(weights, normalisation, network),
            dataset=dataset,
            finetune_dataset=finetune_dataset,
            protocols=option.names(protocols),
            seed=seed,
            overrides=option.overrides(preset, set_, precision, attacks=attacks),
            runs_dir=runs_dir,
            data_dir=data_dir,
            data_in=data_in,
            device=device,
            corruptions=corruptions,
        )
        with reading():
            run = first_then_others(lambda: prepare_evaluation(request))
        say_weights(screen(), run)
        is_open = known is None and threads_open(run)
        show = partial(announce, [run], results_dir, dry_run=dry_run, recipe=recipe, as_json=as_json)
        on_first(lambda: show(threads=known))
        if dry_run:
            return
        with (
            monitored(screen()) as monitor,
            tracked(monitor, track if is_first() else None, run.folder.path.name),
            threads_as_begun(run, is_open),
        ):
            records = execute(run, results_dir, monitor)
        if is_first():
            show_records(records, [run], results_dir, as_json=as_json)
