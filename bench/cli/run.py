"""``bench run``: one method from raw images to records."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import _options as option
from bench.cli._devices import Devices, screen, together
from bench.cli._progress import monitored
from bench.cli._runs import announce, reading, say_inventory, show_records
from bench.trackers import tracked


def run(
    method: option.Method,
    dataset: option.Data = "digits",
    tier: option.Tier = None,
    fidelity: option.Fidelity = "uniform",
    finetune_dataset: option.FinetuneDataset = None,
    protocols: option.Protocols = None,
    encoder: option.Encoder = None,
    preset: option.Preset = None,
    precision: option.Precision = None,
    attacks: option.Attacks = None,
    seed: Annotated[
        int | None, typer.Option(help="The one seed that everything random derives from; default: 0.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several seeds with commas, one run each, and their mean at the end.")
    ] = None,
    set_: option.Set = None,
    corruptions: option.Corruptions = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="FLOPS|like:METHOD",
            help="Choose the epochs so that pre-training spends this many operations, or as many as another method's.",
        ),
    ] = None,
    shared_only: Annotated[
        bool, typer.Option("--shared-only", help="Train the first stage alone, which other runs share; stop.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate/--no-estimate", help="Project the time before the start, from a few steps.")
    ] = True,
    dry_run: option.DryRun = False,
    recipe: option.ShowRecipe = False,
    device: option.Device = None,
    devices: Devices = None,
    accumulate: Annotated[
        int | None,
        typer.Option(metavar="N", help="Compute each batch in N parts, to save memory, where the loss permits it."),
    ] = None,
    threads: option.Threads = None,
    track: option.Track = None,
    runs_dir: option.RunsDir = Path("runs"),
    results_dir: option.ResultsDir = option.LOCAL_RESULTS,
    data_dir: option.DataDir = Path("data"),
    data_in: option.DataIn = "auto",
    as_json: option.AsJson = False,
) -> None:
    """Pre-train a method, evaluate it, and write one record a protocol.

    The same command continues an interrupted run.

    Examples:
      bench run deacl --dataset digits
      bench run deacl --dataset digits --seeds 0,1,2 --protocols slf
      bench run deacl --dataset cifar10 --finetune-dataset cifar100
      bench run deacl --dataset cifar100 --tier paper --dry-run
      bench run deacl --dataset digits --preset deacl-2024
      bench run deacl --dataset digits --precision bf16
      bench run deacl --dataset digits --corruptions generate
      bench run deacl --dataset digits --attacks pgd-cw,targeted-screen,min-norm
      bench run deacl --dataset npz:my.npz --set stage2.lam=3 --set threat.eps=4/255
      bench run acl --dataset digits --budget like:deacl
      bench run ./my_method.py:MyMethod --dataset digits
      bench run deacl --dataset cifar10 --devices 4
      bench run simclr --dataset cifar10 --encoder timm:vit_tiny_patch16_224 --set encoder.options.img_size=32
    """
    from bench.errors import BenchError
    from bench.parallel import first_then_others, is_first, on_first
    from bench.run import RunRequest, execute, prepare, threads_as_begun, threads_open, train_shared

    if seed is not None and seeds is not None:
        raise BenchError(f"--seed {seed} and --seeds {seeds} are both given. Keep one: --seeds holds all seeds.")
    others = {"--dry-run": dry_run, "--recipe": recipe, "--json": as_json}
    if shared_only and (given := [name for name, value in others.items() if value]):
        raise BenchError(f"--shared-only trains the shared stage and prints its file alone. Leave out {given[0]}.")
    chosen = (seed or 0,) if seeds is None else option.parse_seeds(seeds)
    with together(devices, device, threads) as known:
        request = RunRequest(
            method=method,
            dataset=dataset,
            tier=tier,
            fidelity=fidelity,
            protocols=option.names(protocols),
            finetune_dataset=finetune_dataset,
            seed=chosen[0],
            overrides=option.overrides(preset, set_, precision, encoder, attacks),
            accumulate=accumulate,
            budget=budget,
            runs_dir=runs_dir,
            data_dir=data_dir,
            data_in=data_in,
            device=device,
            corruptions=corruptions,
        )
        with reading():
            first = first_then_others(lambda: prepare(request))
            runs = [first.with_seed(each) for each in chosen]
        is_open = known is None and threads_open(first)
        tracker = track if is_first() else None
        if shared_only:
            say_inventory(screen(), first)
            with monitored(screen()) as monitor:
                for each in runs:
                    with threads_as_begun(each, is_open), tracked(monitor, tracker, each.folder.path.name):
                        path = train_shared(each, monitor)
                        if is_first():
                            print(f"stage: {path}")
            return
        show = partial(announce, runs, results_dir, estimate=estimate, dry_run=dry_run, recipe=recipe, as_json=as_json)
        on_first(lambda: show(threads=known))
        if dry_run:
            return
        with monitored(screen()) as monitor:
            records = []
            for each in runs:
                if len(runs) > 1 and not each.finished:
                    monitor.note(f"seed {each.seed}")
                with threads_as_begun(each, is_open), tracked(monitor, tracker, each.folder.path.name):
                    records += execute(each, results_dir, monitor)
        if is_first():
            show_records(records, runs, results_dir, as_json=as_json)
