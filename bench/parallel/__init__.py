"""Several devices in one run: what they exchange, and how their processes are started and stopped.

Each device has a process of its own, and all processes run the same program on the same batches. Only the work of
encoders and of strong views is shared out (:func:`over_devices`): each device computes it for its share of the images,
and all of them receive the results for all images. So losses, attacks, queues and heads see the whole batch, as on one
device.
"""

from bench.parallel.group import check_devices, joined, launch, started_together
from bench.parallel.processes import (
    any_device,
    by_itself,
    copy_from_first,
    devices,
    first_then_others,
    held_by_first,
    in_turn,
    is_first,
    on_first,
    over_all,
    refuse_difference,
    refuse_uneven,
)
from bench.parallel.shares import over_devices, sharing, synchronise

__all__ = [
    "any_device",
    "by_itself",
    "check_devices",
    "copy_from_first",
    "devices",
    "first_then_others",
    "held_by_first",
    "in_turn",
    "is_first",
    "joined",
    "launch",
    "on_first",
    "over_all",
    "over_devices",
    "refuse_difference",
    "refuse_uneven",
    "sharing",
    "started_together",
    "synchronise",
]
