"""The computing device: its choice, its name, its precisions, and meters of time, memory, operations and energy."""

from bench.device.energy import Counter, EnergyMeter, energy_counters
from bench.device.machine import busy_cores, crowding, device_name, pick_device, starvation, use_threads
from bench.device.memory import available_memory, keep_freed_memory, return_freed_memory
from bench.device.meter import Clock, FlopCounter, PeakMemory, count_flops, timed
from bench.device.precision import autocast, refuse_default_type, refuse_precision, same_default_type

__all__ = [
    "Clock",
    "Counter",
    "EnergyMeter",
    "FlopCounter",
    "PeakMemory",
    "autocast",
    "available_memory",
    "busy_cores",
    "count_flops",
    "crowding",
    "device_name",
    "energy_counters",
    "keep_freed_memory",
    "pick_device",
    "refuse_default_type",
    "refuse_precision",
    "return_freed_memory",
    "same_default_type",
    "starvation",
    "timed",
    "use_threads",
]
