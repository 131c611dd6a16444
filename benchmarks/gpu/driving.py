"""An engine core driven by hand, with token ids and without text; and contexts that cost nothing to make.

The prompts of a measurement go through the engine (tree, slots, plans) without being computed. Their keys and
values are the zeros of a new pool: a step reads and multiplies as much whatever they are, and where memory is
what it waits for, as in decoding, it does so no sooner.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from gpu.shapes import Shape
from ramet.config import SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.engine.messages import Abort, AddRequest
from ramet.grammar.compiler import GrammarCompiler
from ramet.model_io import DrawnStep, Finished, LaunchedStep, ModelInput, ModelOutput, ModelRunner, Sampling
from ramet.sampling_params import SamplingParams
from ramet.scheduler.request import RequestOutput

T = TypeVar("T")
GREEDY = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)


class StepFailed(Exception):
    """The engine ended a request that should have gone on."""


class WatchedRunner:
    """A `ModelRunner` over another one, which is timed and may be left out.

    Attributes:
        computes: whether steps are computed; if not, they may sample nothing.
        last_input: of the step launched last.
        seconds: per call (``launch``, ``draw``, ``collect``), what its steps took since they were cleared.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.num_slots = runner.num_slots
        self.pool_bytes = runner.pool_bytes
        self.vocab_size = runner.vocab_size
        self.context_length = runner.context_length
        self.kernels = runner.kernels
        self.is_asynchronous = runner.is_asynchronous
        self.computes = True
        self.last_input: ModelInput | None = None
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def launch(self, model_input: ModelInput) -> LaunchedStep:
        self.last_input = model_input
        if not self.computes:
            assert len(model_input.logit_rows) == 0, "a step that is not computed has no logits"
            return _LeftOut()
        return _Watched(self.timed("launch", lambda: self._runner.launch(model_input)), self)

    def timed(self, name: str, work: Callable[[], T]) -> T:
        """Do something and keep how long it took."""
        started = time.perf_counter()
        done = work()
        self.seconds[name].append(time.perf_counter() - started)
        return done

    def close(self) -> None:
        self._runner.close()


@dataclass(frozen=True, slots=True)
class _Watched:
    """A `LaunchedStep`, and the `DrawnStep` after it, of a runner that is timed."""

    step: Any  # LaunchedStep or DrawnStep
    runner: WatchedRunner

    def draw(self, sampling: Sampling) -> DrawnStep:
        return _Watched(self.runner.timed("draw", lambda: self.step.draw(sampling)), self.runner)

    def collect(self) -> ModelOutput:
        output: ModelOutput = self.runner.timed("collect", self.step.collect)
        return output


class _LeftOut:
    """A `LaunchedStep` without rows that anybody asks for."""

    def draw(self, sampling: Sampling) -> DrawnStep:
        no_ids, no_numbers = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        return Finished(
            ModelOutput(
                token_ids=no_ids,
                logprobs=no_numbers,
                top_token_ids=no_ids.reshape(0, 0),
                top_logprobs=no_numbers.reshape(0, 0),
                score_logprobs=no_numbers,
            )
        )


class Loaded:
    """A runner, and engine cores over it, one after the other."""

    def __init__(self, shape: Shape, runner: ModelRunner, seed: int = 0) -> None:
        self.shape = shape
        self.runner = WatchedRunner(runner)
        self._ids = np.random.default_rng(seed)

    @property
    def slot_bytes(self) -> float:
        """Bytes of a token's keys and values."""
        return self.runner.pool_bytes / self.runner.num_slots

    def prompt(self, length: int) -> list[int]:
        """Random token ids."""
        ids: list[int] = self._ids.integers(2, self.runner.vocab_size, length).tolist()
        return ids

    def core(self, grammars: GrammarCompiler | None = None, **scheduler: Any) -> Driven:
        """An engine core with nothing cached."""
        core = EngineCore(
            self.runner,
            SchedulerConfig(**scheduler),
            grammars=grammars,
            enable_jump_forward=False,  # a token per row and step
        )
        return Driven(core, self.runner)

    def close(self) -> None:
        self.runner.close()


@dataclass(slots=True)
class Steps:
    """Steps that were timed.

    Attributes:
        rows: of each.
        seconds: of each, from one's end to the next one's.
        parts: seconds of each within the runner (`WatchedRunner.seconds`).
    """

    rows: int
    seconds: list[float]
    parts: dict[str, list[float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return sum(self.seconds) / len(self.seconds)

    def part(self, name: str) -> float:
        """Mean seconds of a part per step."""
        return sum(self.parts.get(name, [])) / len(self.seconds)


class Driven:
    """An engine core whose steps are taken by whoever measures."""

    def __init__(self, core: EngineCore, runner: WatchedRunner) -> None:
        self.core = core
        self._runner = runner
        self._names = 0

    def cache_prompts(self, prompts: Sequence[list[int]]) -> None:
        """Let the cache hold prompts that nobody computed."""
        self._runner.computes = False
        self.add(prompts, SamplingParams(max_tokens=0))
        self.run()
        self._runner.computes = True

    def add(self, prompts: Sequence[list[int]], params: SamplingParams) -> None:
        """Requests that come together."""
        names = range(self._names, self._names + len(prompts))
        self._names = names.stop
        self._check(
            self.core.handle(
                *(
                    AddRequest(request_id=f"{name}.0", token_ids=prompt, params=params, seed=name)
                    for name, prompt in zip(names, prompts, strict=True)
                )
            )
        )

    def run(self) -> dict[str, list[int]]:
        """Steps until nothing is left to do; the tokens of each request, in the order of the requests."""
        tokens: dict[str, list[int]] = defaultdict(list)
        while self.core.has_work:
            for output in self._check(self.core.step()):
                tokens[output.request_id] += output.token_ids
        return dict(sorted(tokens.items(), key=lambda item: float(item[0])))

    def steps(self, count: int, rows: int) -> Steps:
        """Time so many steps of requests that all go on."""
        self._runner.seconds.clear()
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            outputs = self.core.step()
            seconds.append(time.perf_counter() - started)
            if any(output.finish_reason is not None for output in self._check(outputs)):
                raise StepFailed("a request ended while its steps were timed")
        return Steps(rows, seconds, {name: list(times) for name, times in self._runner.seconds.items()})

    def stop(self) -> None:
        """Abort what runs, and take the steps that are under way."""
        self.core.handle(Abort(self.core.scheduler.request_ids()))
        while self.core.has_work:
            self.core.step()

    def _check(self, outputs: Collection[object]) -> list[RequestOutput]:
        found = [output for output in outputs if isinstance(output, RequestOutput)]
        for output in found:
            if output.error is not None:
                raise StepFailed(str(output.error)) from output.error
        return found
