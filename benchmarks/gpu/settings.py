"""What a run was asked for, and what its processes tell each other. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Event: TypeAlias = tuple[str, Any]
Cell: TypeAlias = str | int | float | None


class Skip(Exception):
    """A section, or a part of one, that cannot be measured here, and why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates of one device.

    Attributes:
        copy: bytes per second of a large copy, read and written ones counted.
        read: bytes per second of the fastest of a few reductions.
        matrix: operations per second of a large product in bfloat16 (float32 on a CPU).
    """

    copy: float
    read: float
    matrix: float

    @property
    def bandwidth(self) -> float:
        """Bytes per second: the higher one of `copy` and `read`."""
        return max(self.copy, self.read)

    def seconds(self, num_bytes: float, operations: float) -> float:
        """The least time for so much work: reading and computing at once, each at its limit."""
        return max(num_bytes / self.bandwidth, operations / self.matrix)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was asked for.

    Attributes:
        smoke: a tiny model on the CPU: shows that all works, not how fast.
        folder: for configurations and whatever else is of no use afterwards.
        out: for what is to be kept.
        model: a GGUF file or folder with real weights, if there is one.
        deadline: of the run, on the monotonic clock, which all processes share.
        limits: of the device, once they are measured.
    """

    smoke: bool
    folder: Path
    out: Path
    model: Path | None
    deadline: float
    limits: Limits | None = None
