"""The computing device: its choice, its name, and meters of time, memory, operations and energy."""

from bench.device.energy import Counter, EnergyMeter, energy_counters
from bench.device.machine import crowding, device_name, pick_device, use_threads
from bench.device.meter import Clock, FlopCounter, PeakMemory, count_flops, timed

__all__ = [
    "Clock",
    "Counter",
    "EnergyMeter",
    "FlopCounter",
    "PeakMemory",
    "count_flops",
    "crowding",
    "device_name",
    "energy_counters",
    "pick_device",
    "timed",
    "use_threads",
]
