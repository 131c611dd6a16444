"""The extraction workload on engines that take turns, and what a constraint costs a step.

Invariant: every engine gets the same prompts as token ids, all at once and greedily, with nothing cached but
compiled constraints. Knows nothing of how an engine is started.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from constrained_decoding.workload import MAX_TOKENS, SCHEMA
from engine.engine_process import EngineFailed, EngineProcess

Say = Callable[[str], None]
Answer = dict[str, Any]  # seconds, token ids and texts per prompt, counted work
Statistic = Callable[[Sequence[float]], float]
"""What stands for many times: their median, or the fastest."""

JUMPING, STEPPING = "Ramet", "Ramet, no jump-forward"


@dataclass(slots=True)
class Extraction:
    """What the engines did.

    Attributes:
        seconds: per engine, one time per run.
        answers: per engine, of its last run.
        failures: per engine, why it is missing.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, engine: str) -> float:
        return median(self.seconds[engine])


Kind = Literal["free", "known", "new", "prompts"]


@dataclass(slots=True)
class Cost:
    """The same requests with and without a constraint.

    Kinds of runs: ``free`` has no constraint; in ``known`` the masks of all states were made by an earlier
    run, in ``new`` they have to be made; ``prompts`` has no constraint and ends after one token.

    Attributes:
        seconds: per kind, one time per run.
        steps: per kind, of one run.
    """

    seconds: dict[Kind, list[float]] = field(default_factory=dict)
    steps: dict[Kind, int] = field(default_factory=dict)

    def add(self, kind: Kind, answer: Answer) -> None:
        """One more run."""
        self.seconds.setdefault(kind, []).append(answer["seconds"])
        self.steps[kind] = answer["work"]["steps"]

    def per_step(self, kind: Kind, of: Statistic) -> float:
        """Seconds of a step, prompts and all."""
        return of(self.seconds[kind]) / self.steps[kind]

    def per_decode_step(self, kind: Kind, of: Statistic) -> float:
        """The same of the steps after the prompts."""
        seconds = of(self.seconds[kind]) - of(self.seconds["prompts"])
        return seconds / (self.steps[kind] - self.steps["prompts"])


class ExtractionRuns:
    """Asks engines, in turn and one at a time; one that fails is left out from then on."""

    def __init__(self, engines: Sequence[EngineProcess], prompts: list[list[int]], say: Say) -> None:
        self.extraction = Extraction()
        self._engines = list(engines)
        self._prompts = prompts
        self._say = say
        self._num_new = 0

    def extract(self, runs: int, warm_ups: int = 1) -> None:
        """The workload ``runs`` times on all engines; who is first changes from run to run."""
        limits = [MAX_TOKENS] * len(self._prompts)
        for index in range(-warm_ups, runs):
            shift = index % len(self._engines)
            for engine in self._engines[shift:] + self._engines[:shift]:
                label = f"extraction, {_run_name(index, runs)}  {engine.name}"
                answers = self._on_engine(engine, [self._call(limits)], label)
                if answers is not None and index >= 0:
                    self.extraction.seconds.setdefault(engine.name, []).append(answers[0]["seconds"])
                    self.extraction.answers[engine.name] = answers[0]

    def cost(self, runs: int, warm_ups: int = 1) -> Cost | None:
        """What a step costs with the constraint and without, on the engine that makes every step.

        Without it, requests end after as many tokens as with it, so that batches have the same sizes.
        """
        engine = next(engine for engine in self._engines if engine.name == STEPPING)
        extracted = self.extraction.answers.get(STEPPING)
        if extracted is None:
            return None
        lengths = [len(token_ids) for token_ids in extracted["token_ids"]]
        in_turn: list[Kind] = ["prompts", "free", "known", "new", "new", "known", "free", "prompts"]
        cost = Cost()
        for index in range(-warm_ups, runs):
            half = len(in_turn) // 2
            kinds = in_turn if index % 2 else in_turn[half:] + in_turn[:half]
            label = f"cost of a constraint, {_run_name(index, runs)}"
            answers = self._on_engine(engine, [self._cost_call(kind, lengths) for kind in kinds], label)
            if answers is None:
                return None
            if index >= 0:
                for kind, answer in zip(kinds, answers, strict=True):
                    cost.add(kind, answer)
        return cost

    def _cost_call(self, kind: Kind, lengths: list[int]) -> dict[str, Any]:
        call = self._call([1] * len(lengths) if kind == "prompts" else lengths)
        match kind:
            case "prompts" | "free":
                return call | {"schema": None}
            case "known":
                return call
            case "new":  # the same schema in other white space has a grammar of its own
                self._num_new += 1
                return call | {"schema": call["schema"] + " " * self._num_new}

    def _call(self, limits: list[int]) -> dict[str, Any]:
        return {"prompts": self._prompts, "max_tokens": limits, "schema": json.dumps(SCHEMA)}

    def _on_engine(
        self, engine: EngineProcess, calls: list[dict[str, Any]], label: str
    ) -> list[Answer] | None:
        if engine.name in self.extraction.failures:
            return None
        try:
            if not engine.running:
                self._say(f"loading {engine.name}")
                engine.start()
            answers = engine.session(calls)
        except EngineFailed as error:
            self.extraction.failures[engine.name] = str(error)
            self._say(f"{label}: failed: {error}")
            return None
        self._say(f"{label}: {', '.join(format(answer['seconds'], '.2f') for answer in answers)} s")
        return answers


def _run_name(index: int, runs: int) -> str:
    return "warm-up" if index < 0 else f"run {index + 1}/{runs}"
