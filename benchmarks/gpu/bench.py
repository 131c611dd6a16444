"""What a section of the benchmark is given: the device, sizes, limits, models, and where figures go."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from gpu.driving import Loaded
from gpu.settings import Cell, Event, Limits, Settings, Skip
from gpu.shapes import Shape, shape_of
from gpu.sizes import FULL, SMOKE, Sizes
from ramet.config import ModelOptions, SchedulerConfig
from ramet.runner.build import build_runner

_LAST_WORDS = 10.0  # seconds; more than `gpu.subprocesses` grants


class Bench:
    """Gives sections what they need and passes on what they find."""

    def __init__(self, settings: Settings, send: Callable[[Event], None]) -> None:
        self.settings = settings
        self.sizes: Sizes = SMOKE if settings.smoke else FULL
        self.device = torch.device("cpu" if settings.smoke else "cuda")
        self._until = settings.deadline
        if settings.smoke:
            torch.set_num_threads(1)  # the fastest for so little, above all beside others
        self._send = send
        self._limits = settings.limits
        self._loaded: tuple[tuple[object, ...], Loaded] | None = None

    def begin(self, seconds: float) -> None:
        """A section begins, which may take so long."""
        self._until = min(time.monotonic() + seconds, self.settings.deadline)

    @property
    def seconds(self) -> float:
        """How long a program may run that a section starts: the section has a little more."""
        return max(self._until - time.monotonic() - _LAST_WORDS, 1.0)

    @property
    def limits(self) -> Limits:
        """
        Raises:
            Skip: they could not be measured.
        """
        if self._limits is None:
            raise Skip("the limits of the device are not known")
        return self._limits

    def set_limits(self, limits: Limits) -> None:
        self._limits = limits
        self._send(("limits", limits))

    def set_environment(self, found: dict[str, Any]) -> None:
        self._send(("environment", found))

    def row(self, table: str, cells: Mapping[str, Cell]) -> None:
        """A line of a table; cells by the names of their columns."""
        self._send(("row", (table, dict(cells))))

    def note(self, text: str) -> None:
        """A line of text below the tables of a section."""
        self._send(("note", text))

    def shape(self, name: str) -> Shape:
        return shape_of(name, self.settings.folder)

    def load(self, name: str, **options: object) -> Loaded:
        """An engine's runner of a shape with random weights; the one that was asked for last is kept."""
        key = (name, *sorted(options.items()))
        if self._loaded is not None and self._loaded[0] == key:
            return self._loaded[1]
        self.unload()
        shape, chunk = self.shape(name), max(self.sizes.chunks)
        given = self.options(load_format="dummy", **options)
        runner = build_runner(
            shape.folder,
            given,
            max_kv_tokens=self.sizes.max_kv_tokens,
            steps=SchedulerConfig(max_batch_tokens=chunk),
        )
        self._loaded = key, Loaded(shape, runner)
        return self._loaded[1]

    def options(self, **options: object) -> ModelOptions:
        """Options of a model on the device that is measured."""
        base = ModelOptions(device="cuda")
        if self.settings.smoke:
            base = ModelOptions(device="cpu", kernels="torch")
        return replace(base, **options)  # type: ignore[arg-type, unused-ignore]

    def unload(self) -> None:
        """Free the device's memory, also what torch keeps for later."""
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
