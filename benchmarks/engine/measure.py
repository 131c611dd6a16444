"""The runs: every engine does every session, in turn and one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from engine.engine_process import EngineFailed, EngineProcess
from engine.limits import BESIDE, measure_limits
from engine.report import RAMET, Measured
from engine.workloads import Session, Workloads

Say = Callable[[str], None]


class Measurement:
    """Runs sessions on engines and keeps their times."""

    def __init__(
        self,
        engines: Sequence[EngineProcess],
        workloads: Workloads,
        say: Say,
        machine: EngineProcess | None = None,
    ) -> None:
        """``machine`` measures limits (`engine.limits.limits_spec`), if they are wanted."""
        self.measured = Measured()
        self._engines = list(engines)
        self._workloads = workloads
        self._say = say
        self._machine = machine
        self._unloadable: dict[str, str] = {}

    def run(self, name: str, *, runs: int, warm_ups: int) -> None:
        """One session ``runs`` times on all engines; who is first changes from run to run."""
        for index in range(-warm_ups, runs):
            session = self._workloads.session(name)
            shift = index % len(self._engines)
            first_tokens: dict[str, list[list[int]]] = {}
            if index >= 0:
                self._measure_limits(name)
            for engine in self._engines[shift:] + self._engines[:shift]:
                label = f"({name}) {'warm-up' if index < 0 else f'run {index + 1}/{runs}'}  {engine.name}"
                answers = self._on_engine(name, session, engine, label)
                if answers is not None and index >= 0:
                    self._keep(session, engine.name, answers)
                    first_tokens[engine.name] = [_first_tokens(answer) for answer in answers]
            self._compare(session, first_tokens)

    def _measure_limits(self, name: str) -> None:
        if self._machine is None or name not in BESIDE:
            return
        try:
            limits = measure_limits(self._machine, BESIDE[name])
        except EngineFailed as error:
            self._say(f"({name}) what the machine can do could not be measured: {error}")
            self._machine = None
            self.measured.limits.pop(name, None)  # a share is of all runs
        else:
            self.measured.limits.setdefault(name, []).append(limits)

    def _on_engine(
        self, name: str, session: Session, engine: EngineProcess, label: str
    ) -> list[dict[str, Any]] | None:
        failures = self.measured.failures.setdefault(name, {})
        if engine.name in self._unloadable:
            failures[engine.name] = self._unloadable[engine.name]
        if engine.name in failures:
            return None
        try:
            if not engine.running:
                self._load(engine)
            answers = engine.session([call.message() for call in session])
        except EngineFailed as error:
            failures[engine.name] = str(error)
            self._say(f"{label}: failed: {error}")
            return None
        self._say(f"{label}: {', '.join(format(answer['seconds'], '.2f') for answer in answers)} s")
        return answers

    def _load(self, engine: EngineProcess) -> None:
        started = time.perf_counter()
        try:
            engine.start()
        except EngineFailed as error:
            self._unloadable[engine.name] = str(error)
            raise
        self._say(f"{engine.name} loaded in {time.perf_counter() - started:.1f} s")

    def _keep(self, session: Session, engine: str, answers: list[dict[str, Any]]) -> None:
        seconds: dict[str, float] = {}
        work: dict[str, dict[str, int]] = {}
        for call, answer in zip(session, answers, strict=True):
            if call.figure is None:
                continue
            seconds[call.figure] = seconds.get(call.figure, 0.0) + answer["seconds"]
            counted = work.setdefault(call.figure, {})
            for what, value in answer["work"].items():
                counted[what] = counted.get(what, 0) + value
        for figure, total in seconds.items():
            self.measured.add(figure, engine, total)
        if engine == RAMET:
            self.measured.work |= work

    def _compare(self, session: Session, first_tokens: dict[str, list[list[int]]]) -> None:
        ours = first_tokens.pop(RAMET, None)
        if ours is None:
            return
        for engine, theirs in first_tokens.items():
            for call, mine, other in zip(session, ours, theirs, strict=True):
                if call.figure is not None:
                    per_peer = self.measured.agreement.setdefault(call.figure, {})
                    equal, count = per_peer.get(engine, (0, 0))
                    same = sum(a == b for a, b in zip(mine, other, strict=True))
                    per_peer[engine] = (equal + same, count + len(mine))


def _first_tokens(answer: dict[str, Any]) -> list[int]:
    return [tokens[0] for tokens in answer["tokens"]]
