"""The tables of ``bench timing``."""

from typing import TYPE_CHECKING

from bench.cli._progress import rough_time
from bench.cli._tables import Column, DataTable, digits
from bench.monitor import plural

if TYPE_CHECKING:
    from bench.cost import StageTiming, Timing
    from bench.results import MeasuredTable


_DROPPED = {
    **{"spread": 1, "energy": 1, "memory": 2, "GFLOPs/image": 3, "images/s": 4, "seeds": 5},
    **{"pseudo-labels": 1, "FLOPs": 2},
}
"""Which columns a narrow screen loses first."""


def steps_table(timing: "Timing") -> DataTable:
    """Return the steps as they were timed, a line a stage."""
    from bench.results import machine_text  # imports numpy, which --help does without

    table = _table(
        f"A training step: {_conditions(timing)}, {timing.encoder or 'each its own encoder'}",
        ("method", "stage", "precision"),
        ("batch", "seconds", "spread", "images/s", "passes", "GFLOPs/image", "memory"),
        f"{machine_text(timing.device)}, torch {timing.torch}; median and spread of {plural(timing.rounds, 'step')}, "
        "update included.\n"
        "batch: images in the timed step, of the recipe's. images/s, memory (of tensors): at the recipe's batch.\n"
        "passes of an image in a step, counted; fb: forward and backward, f: forward only.",
    )
    for method in timing.methods:
        for stage in method.stages:
            seconds = stage.seconds[stage.batch]
            table.add(
                method.title,
                stage.stage,
                stage.precision,
                _batch(stage),
                digits(stage.step_seconds),
                f"{min(seconds):.3g} to {max(seconds):.3g}",
                digits(stage.images_per_second),
                _passes(stage),
                digits(stage.flops_per_image / 1e9),
                memory(stage.peak_memory_bytes),
            )
    return table


def whole_table(timing: "Timing") -> DataTable:
    """Return the whole recipes as the steps project them, a line a method, beside the papers' numbers."""
    from bench.results import machine_text  # imports numpy, which --help does without

    times = f"x {timing.reference}"
    depth = max(len(method.stages) for method in timing.methods)
    table = _table(
        f"Projected pre-training: {_conditions(timing)}",
        ("method",),
        (
            *(f"stage {number}" for number in range(1, depth + 1)),
            *("pseudo-labels", "all", times, "FLOPs", times, "paper, GPU-days", times),
        ),
        "\n".join(
            [
                f"on {machine_text(timing.device)}; the papers do not name their GPUs",
                *(f"{each.title} uses {each.outside}" for each in timing.methods if each.outside != "nothing"),
            ]
        ),
    )
    for method in timing.methods:
        ahead = [stage.preparation_seconds for stage in method.stages if stage.preparation_seconds is not None]
        table.add(
            method.title,
            *(rough_time(stage.training_seconds) for stage in method.stages),
            *[""] * (depth - len(method.stages)),
            rough_time(sum(ahead)) if ahead else "",
            rough_time(method.total_seconds),
            _ratio(method.to_reference),
            f"{method.total_flops:.3g}",
            _ratio(method.flops_to_reference),
            "" if method.paper_gpu_days is None else f"{method.paper_gpu_days:g}",
            _ratio(method.paper_to_reference),
        )
    return table


def measured_table(costs: "MeasuredTable") -> DataTable:
    """Return the cost of runs on one machine, a line a stage; totals are in the last line."""
    from bench.results import tier_text, time_text  # imports numpy, which --help does without

    threads = "" if "thread" in costs.device else f"; {plural(costs.threads, 'thread')}"  # the name of a CPU has them
    table = _table(
        f"Pre-training on {costs.dataset} ({costs.sha256[:8]}), tier {tier_text(costs.tier, costs.tier_form)}, "
        f"{costs.fidelity} fidelity" + (f", {costs.precision}" if costs.precision else ""),
        ("method", "seeds", "stage"),
        ("time", "images/s", "GFLOPs/image", "memory", "energy", "all", f"x {costs.reference}"),
        f"{costs.device}{threads}; means over the seeds; empty: not measured",
    )
    for row in costs.rows:
        for place, stage in enumerate(row.stages):
            last = place == len(row.stages) - 1
            table.add(
                *(row.label, row.seeds),
                stage.stage,
                time_text(stage.seconds),
                "" if stage.images_per_second is None else digits(stage.images_per_second),
                "" if stage.flops_per_image is None else digits(stage.flops_per_image / 1e9),
                memory(stage.peak_memory_bytes),
                "" if stage.energy_joules is None else f"{digits(stage.energy_joules / 3600)} Wh",
                time_text(row.total_seconds) if last else "",
                _ratio(row.to_reference) if last else "",
            )
    return table


def memory(size: float | None) -> str:
    """Return bytes in the unit that suits them."""
    if size is None:
        return ""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...], caption: str) -> DataTable:
    return DataTable(
        *(
            Column(name, once=name in ("method", "seeds"), prose=name == "method", drop=_DROPPED.get(name, 0))
            for name in texts
        ),
        *(Column(name, number=True, drop=_DROPPED.get(name, 0)) for name in numbers),
        title=title,
        caption=caption,
    )


def _conditions(timing: "Timing") -> str:
    return f"{timing.dataset}, tier {timing.tier}, {timing.fidelity} fidelity"


def _batch(stage: "StageTiming") -> str:
    if stage.batch == stage.published_batch:
        return str(stage.batch)
    return f"{stage.batch} of {stage.published_batch}"


def _passes(stage: "StageTiming") -> str:
    kinds = ((stage.forward_backward, "fb"), (stage.forward, "f"))
    return " + ".join(f"{number:g} {kind}" for number, kind in kinds if number)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
