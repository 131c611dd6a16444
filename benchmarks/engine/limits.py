"""What the machine can do at most: matrix rates and memory bandwidth.

Measured like an engine, in a process of its own that stands still while engines run, and beside the runs that
are to be compared with it: what a shared machine can do changes from minute to minute. Each figure is the
best of many repetitions within some seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from engine.engine_process import EngineProcess, EngineSpec

Limits: TypeAlias = Mapping[str, float]
"""By name: matrix rates in operations (two per multiply-add) per second, and bytes read per second."""

KINDS = ("int8", "bf16", "f32")
READ, READ_BY_ONE = "memory read", "memory read by one thread"
ALL = (*KINDS, *(f"{kind} of 32 rows" for kind in KINDS), READ, READ_BY_ONE)

BESIDE: Mapping[str, Sequence[str]] = {"a": ("int8", "bf16"), "b": (READ,)}
"""By session: what bounds it."""


def limits_spec(threads: int, hidden_size: int, intermediate_size: int) -> EngineSpec:
    """A process that measures, on matrices of the model's sizes and on larger ones."""
    options = {"threads": threads, "hidden": hidden_size, "inner": intermediate_size}
    return EngineSpec("machine", (sys.executable, Path(__file__).with_name("machine.py")), options)


def measure_limits(machine: EngineProcess, names: Sequence[str] = ALL) -> Limits:
    """Measure some limits now.

    Raises:
        EngineFailed: the process of `limits_spec` cannot be started, or died.
    """
    if not machine.running:
        machine.start()
    [limits] = machine.session([{"names": names}])
    return limits
