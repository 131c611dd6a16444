"""The sections of the benchmark, the most important ones first."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpu.bench import Bench


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the benchmark.

    Attributes:
        name: how it is asked for.
        place: its function, as ``module:function``; imported where it runs, since torch takes long to import.
        about: in a few words.
        seconds: after which it has failed.
        ends_process: what it leaves behind would slow those after it.
    """

    name: str
    place: str
    about: str
    seconds: float
    ends_process: bool = False

    def run(self, bench: Bench) -> None:
        module, _, function = self.place.partition(":")
        body: Callable[[Bench], None] = getattr(importlib.import_module(f"gpu.{module}"), function)
        body(bench)


SECTIONS = (
    Section("limits", "limits:run", "what the device can do at most; always measured", 60),
    Section("greedy", "greedy:run", "greedy tokens in float32 as on the CPU", 90),
    Section("decode", "decode:run", "decode steps by rows and context, 8B shape", 120),
    Section("prefill", "prefill:run", "prompts, 8B shape", 45),
    Section("shared", "shared_prefix:run", "branches of one long prompt, 8B shape", 60),
    Section("overhead", "overhead:run", "Python's time per step", 45),
    Section("busy", "overhead:run_traced", "how busy the device is, and with what", 75, ends_process=True),
    Section("tests", "suite:run", "the tests that need a GPU", 150),
    Section("options", "options:run", "deterministic mode and fp8 KV", 90),
    Section("workloads", "workloads:run", "(a) to (e) of benchmarks/engine, real weights", 90),
    Section("small-decode", "decode:run_small", "decode steps, 1B shape", 60),
    Section("small-prefill", "prefill:run_small", "prompts, 1B shape", 45),
    Section("transformers", "peers:run_transformers", "the same shape with transformers", 60),
)
NAMES = tuple(section.name for section in SECTIONS)
