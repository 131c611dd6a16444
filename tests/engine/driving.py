"""Drives an engine core by hand, checking its invariants after every message and step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from ramet.config import SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.engine.messages import Abort, AddRequest, FlushCache, Message
from ramet.model_io import ModelInput, Sampling
from ramet.runner.fake import FakeRunner
from ramet.sampling_params import SamplingParams
from ramet.scheduler.request import RequestOutput


def count_up(context: tuple[int, ...]) -> int:
    """The next token is the last one plus one."""
    return (context[-1] + 1) % 100


def request(
    request_id, token_ids, *, seed=0, namespace="", priority=0, score_from=None, lease_seconds=0.0, **sampling
):
    """A message that asks for four tokens or for what ``sampling`` says."""
    return AddRequest(
        request_id=request_id,
        token_ids=list(token_ids),
        params=SamplingParams(**{"max_tokens": 4, "temperature": 0.0, **sampling}),
        seed=seed,
        namespace=namespace,
        priority=priority,
        score_from=score_from,
        lease_seconds=lease_seconds,
    )


class Driver:
    """A core over a `FakeRunner`, stepped by the test."""

    def __init__(
        self,
        *,
        num_slots: int = 4096,
        next_token: Callable[[tuple[int, ...]], int] = count_up,
        enable_prefix_cache: bool = True,
        eos: Sequence[int] = (),
        before_step: Callable[[ModelInput], None] | None = None,
        before_draw: Callable[[Sampling], None] | None = None,
        is_asynchronous: bool = False,
        **scheduler,
    ):
        self.now = 0.0  # seconds, as the core sees them
        self.runner = FakeRunner(
            next_token=next_token,
            num_slots=num_slots,
            vocab_size=100,
            context_length=8192,
            before_step=before_step,
            before_draw=before_draw,
            is_asynchronous=is_asynchronous,
        )
        self.core = EngineCore(
            self.runner,
            SchedulerConfig(**scheduler),
            eos_token_ids=eos,
            enable_prefix_cache=enable_prefix_cache,
            clock=lambda: self.now,
        )
        self.tokens: dict[str, list[int]] = defaultdict(list)
        self.logprobs: dict[str, list] = defaultdict(list)
        self.final: dict[str, RequestOutput] = {}

    def add(self, request_id, token_ids, **options):
        self.handle(request(request_id, token_ids, **options))

    def lease(self, request_id, token_ids, seconds, **options):
        self.add(request_id, token_ids, max_tokens=0, lease_seconds=seconds, **options)

    def abort(self, *request_ids):
        self.handle(Abort(list(request_ids)))

    def flush(self) -> bool:
        (reply,) = self.core.handle(FlushCache(0))
        return reply.value

    def handle(self, *messages: Message) -> None:
        self._take(self.core.handle(*messages))
        self.core.scheduler.check()

    def step(self) -> int:
        """One step; returns the number of rows computed."""
        before = self.stats.rows
        self._take(self.core.step())
        self.core.scheduler.check()
        return self.stats.rows - before

    def run(self, max_steps: int = 20_000) -> list[int]:
        """Steps until nothing is left to do; the rows of each."""
        rows = []
        while self.core.has_work:
            rows.append(self.step())
            assert len(rows) < max_steps, "the core makes no progress"
        return rows

    @property
    def stats(self):
        return self.core.stats()

    def _take(self, outputs):
        for output in outputs:
            assert output.request_id not in self.final, f"output after the final one: {output}"
            self.tokens[output.request_id] += output.token_ids
            self.logprobs[output.request_id] += output.logprobs
            if output.finish_reason is not None:
                self.final[output.request_id] = output
