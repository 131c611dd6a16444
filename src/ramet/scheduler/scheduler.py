"""Which tokens are computed in the next step, and what becomes of its results.

A running request is a path in the radix tree; its work is the part of the path without KV. There are
no phases: prefill, chunks of it, decoding, scoring and resuming after preemption are all "rows of nodes".
The scheduler knows nothing of text or tensors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence

from ramet.config import SchedulerConfig
from ramet.errors import EngineError, InvalidRequest, Overloaded, PromptTooLong, RametError, RequestAborted
from ramet.model_io import ModelOutput
from ramet.radix import Leases, Path, PrefixCache
from ramet.scheduler.batch import Batch, BatchBuilder, LogitsPoint
from ramet.scheduler.limits import check_config
from ramet.scheduler.policy import POLICIES
from ramet.scheduler.request import RawLogprob, Request, RequestOutput, Status
from ramet.scheduler.stop import Stop
from ramet.scheduler.waiting import WaitingQueue
from ramet.stats import EngineStats
from ramet.types import FinishReason

ADMISSION_RESERVE = 8
"""Slots kept for the next tokens of each running request when another one is admitted."""

NOT_FINITE = "the model's logits are not finite"


class Scheduler:
    """Owns the waiting and running requests and their paths."""

    def __init__(
        self, cache: PrefixCache, config: SchedulerConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            cache: slots and tree.
            config: limits and policy.
            clock: seconds, for the deadlines of leases.

        Raises:
            InvalidRequest: an unknown policy, or a limit below 1.
        """
        check_config(config)
        self._cache = cache
        self._max_batch_tokens = config.max_batch_tokens
        self._max_running = config.max_running_requests
        self._max_waiting = config.max_waiting_requests
        self._clock = clock
        self._leases = Leases(cache)
        self._held: dict[str, Request] = {}  # accepted, and not begun
        self._waiting = WaitingQueue(POLICIES[config.policy], cache)  # of one priority, the preempted first
        self._running: dict[str, Request] = {}  # in order of admission: the youngest gives way first
        self._newest: Batch | None = None  # the step launched last, until its results are there
        self._stats = EngineStats(total_slots=cache.num_slots)

    @property
    def has_work(self) -> bool:
        """Whether a step may get somewhere; requests that are held wait for something else."""
        return bool(self._waiting or self._running)

    def request_ids(self) -> list[str]:
        """All requests that have not finished."""
        return [*self._running, *self._waiting, *self._held]

    def why_overloaded(self, num_requests: int) -> str | None:
        """Why so many more requests may not wait; ``None`` if they may."""
        waiting = len(self._waiting) + len(self._held)
        if num_requests == 0 or self._max_waiting is None or waiting + num_requests <= self._max_waiting:
            return None
        return (
            f"{waiting} requests are waiting, and {num_requests} more would exceed the limit of "
            f"{self._max_waiting} (max_waiting_requests)"
        )

    def accept(self, request: Request) -> None:
        """Take a request, to `begin` when its constraint is compiled, if it has one.

        Raises:
            PromptTooLong: leases may not hold as much as it wants leased.
        """
        for requests in (self._held, self._waiting, self._running):
            assert request.request_id not in requests, request.request_id
        if request.lease_seconds > 0 and request.num_prompt_tokens > self._leases.max_tokens:
            raise PromptTooLong(
                f"the prefix has {request.num_prompt_tokens} tokens, and leases may hold at most "
                f"{self._leases.max_tokens}, half of the KV pool"
            )
        self._stats.requests += 1
        self._stats.prompt_tokens += request.num_prompt_tokens
        self._held[request.request_id] = request

    def begin(self, request: Request) -> list[RequestOutput]:
        """Queue an accepted request. What its constraint forces is put out at once."""
        del self._held[request.request_id]
        request.queued_at_step = self._stats.steps
        self._waiting.append(request)
        if request.matcher is None:
            return []
        try:
            token_ids, stop = request.begin()
        except InvalidRequest as error:
            return [self._finish(request, None, error=error)]
        self._stats.jump_forward_tokens += len(token_ids)
        return [self._put_out(request, token_ids, stop)] if token_ids or stop is not None else []

    def stats(self) -> EngineStats:
        """A snapshot."""
        self._leases.expire(self._clock())
        stats = self._stats
        stats.running, stats.waiting = len(self._running), len(self._waiting) + len(self._held)
        stats.leased_tokens = self._leases.num_tokens
        stats.free_slots = self._cache.num_free
        stats.evicted_tokens = self._cache.num_evicted_tokens
        return EngineStats(**{name: getattr(stats, name) for name in EngineStats.__slots__})

    def flush(self) -> None:
        """Drop all cached KV that no request holds; leases end."""
        self._leases.clear()
        self._cache.flush()

    def check(self) -> None:
        """Verify the invariants of cache and leases; for tests.

        Raises:
            AssertionError: one does not hold.
        """
        self._cache.check()
        self._leases.check()

    # ---------------------------------------------------------------------------------- scheduling

    def schedule(self) -> Batch | None:
        """The next step, or ``None`` if nothing can be computed now."""
        self._leases.expire(self._clock())
        preempted = self._grow_running()
        if self._waiting and not preempted:
            self._admit_waiting()
        # The tree keeps its shape from here on. Requests that need one row go first, so that a long
        # prompt computed in chunks never holds up decoding.
        builder = BatchBuilder(self._max_batch_tokens)
        larger: list[Request] = []
        for request in self._running.values():
            if request.needs_many_rows:
                larger.append(request)
            else:
                builder.add(request)
        for request in larger:
            builder.add(request)
        return builder.build()

    def launched(self, batch: Batch) -> None:
        """A step is on its way: what it computes is there for every step after it, and ordered only once."""
        for node, num_computed in batch.computed():
            self._cache.mark_computed(node, num_computed)
        self._forget_samples()
        self._newest = batch
        for index, point in enumerate(batch.samples):
            point.request.sample_index = index
            point.request.logits_cursor = point.position + 1
        for point in batch.scores:
            point.request.logits_cursor = point.position + 1
        for request in batch.cached:
            request.logits_cursor = request.num_path_tokens

    def _forget_samples(self) -> None:
        if self._newest is not None:
            for point in self._newest.samples:
                point.request.sample_index = None
            self._newest = None

    def _grow_running(self) -> bool:
        """Put the tokens appended last into the tree; if slots run out, others give way: of those with
        the highest ``priority`` value, the youngest."""
        preempted = False
        for request in list(self._running.values()):
            while request.status is Status.RUNNING and not self._grow(request):
                self._preempt(max(reversed(self._running.values()), key=lambda other: other.priority))
                preempted = True
        return preempted

    def _grow(self, request: Request) -> bool:
        path = request.path
        assert path is not None, request.request_id
        request.guess()
        length = path.length
        return length == request.num_path_tokens or self._cache.extend(path, request.token_ids[length:])

    def _admit_waiting(self) -> None:
        """Admit requests in order of priority and policy while the pending work does not fill a step."""
        if self._is_full():
            return
        for request in self._waiting.in_order(self._stats.steps):
            if self._is_full():
                break
            path = self._find_room(request)
            if path is None:
                break  # not even for a smaller one: whoever is first must not starve
            if not request.was_admitted:
                request.was_admitted = True
                request.num_cached_tokens = min(path.num_matched, request.num_prompt_tokens - 1)
                self._stats.cached_tokens += request.num_cached_tokens
            request.path = path
            request.status = Status.RUNNING
            self._waiting.remove(request.request_id)
            self._running[request.request_id] = request

    def _find_room(self, request: Request) -> Path | None:
        token_ids = request.path_tokens()
        reserve = min(ADMISSION_RESERVE * len(self._running), self._cache.num_slots // 4)
        path = self._cache.admit(token_ids, request.namespace, reserve=reserve)
        # Leases give way where nobody's end can make room: a request that fits the pool is computed.
        while path is None and not self._running and self._leases.drop_next():
            path = self._cache.admit(token_ids, request.namespace)
        return path

    def _is_full(self) -> bool:
        too_much_work = self._cache.num_pending_tokens >= self._max_batch_tokens
        return too_much_work or len(self._running) >= self._max_running

    def _preempt(self, request: Request) -> None:
        """Let a request wait again. Its KV stays as ordinary cache until someone needs the room."""
        self._leave(request)
        if request.params.max_tokens == 0 and request.score_from is None:
            request.logits_cursor = request.num_path_tokens - 1  # computed once more
        self._stats.preemptions += 1
        request.status = Status.WAITING
        request.queued_at_step = self._stats.steps
        self._waiting.append_first(request)

    def _leave(self, request: Request) -> None:
        self._held.pop(request.request_id, None)
        self._running.pop(request.request_id, None)
        self._waiting.remove(request.request_id)
        if request.is_guessing:
            request.forget_guess()
            if request.path is not None and request.path.length > request.num_path_tokens:
                self._cache.drop_last(request.path)
        if request.path is not None:
            self._cache.release(request.path)
            request.path = None

    # ------------------------------------------------------------------------------------ results

    def update(self, batch: Batch, output: ModelOutput) -> list[RequestOutput]:
        """Take the results of a launched step: what each request put out in it.

        One more may have been launched since; requests may have been aborted or preempted.
        """
        if batch is self._newest:
            self._forget_samples()
        self._stats.steps += 1
        self._stats.rows += batch.num_rows
        self._stats.computed_tokens += batch.num_prompt_rows
        cached = [request for request in batch.cached if request.status is Status.RUNNING]
        outputs = [self._finish_cached(request) for request in cached]
        token_ids = output.token_ids.tolist()
        for index, point in enumerate(batch.samples):
            if index not in batch.void and point.request.status is not Status.FINISHED:
                outputs.append(self._take_sample(point.request, token_ids[index], index, output))
        compared = {point: place for place, point in enumerate(batch.compared, start=len(batch.samples))}
        scored: dict[str, RequestOutput] = {}
        for index, point in enumerate(batch.scores):
            if point.request.status is not Status.FINISHED:
                raw = RawLogprob.of(point.request, output.score_logprobs[index], output, compared.get(point))
                self._take_score(point, raw, scored)
        return outputs + list(scored.values())

    def _finish_cached(self, request: Request) -> RequestOutput:
        """End a request whose prompt is computed, which is all it wanted, or all but a lease."""
        if request.lease_seconds > 0:
            assert request.path is not None, request.request_id
            if not self._leases.grant(request.path, self._clock() + request.lease_seconds):
                reason = (
                    f"leases hold {self._leases.num_tokens} tokens, and {request.num_prompt_tokens} more "
                    f"would exceed {self._leases.max_tokens}, half of the KV pool"
                )
                return self._finish(request, None, error=Overloaded(reason))
            request.path = None
        return self._finish(request, Stop("length"))

    def _take_sample(self, request: Request, token_id: int, index: int, output: ModelOutput) -> RequestOutput:
        if token_id < 0:
            return self._finish(request, None, error=EngineError(NOT_FINITE))
        self._stats.generated_tokens += 1
        guessed = request.is_guessing
        if guessed:
            request.forget_guess()
        token_ids: list[int] = []
        stop, failure = None, None
        try:
            token_ids, stop = request.take(token_id)
        except InvalidRequest as error:
            failure = error
        if guessed:
            self._settle(request, token_id, token_ids)
        if failure is not None:
            return self._finish(request, None, error=failure)
        self._stats.jump_forward_tokens += len(token_ids) - 1
        wanted = request.params.logprobs is not None
        logprobs = [RawLogprob.of(request, output.logprobs[index], output, index)] if wanted else []
        return self._put_out(request, token_ids, stop, logprobs)

    def _settle(self, request: Request, token_id: int, token_ids: list[int]) -> None:
        """A token that was guessed is known: it has a row in the tree, and perhaps one in the newest step."""
        assert request.path is not None, request.request_id
        if token_ids[:1] == [token_id]:
            self._cache.rename_last(request.path, token_id)
        else:
            self._cache.drop_last(request.path)
        if request.sample_index is None:
            return
        if token_ids == [token_id]:
            request.logits_cursor = len(request.token_ids)  # what follows it is being drawn
        else:  # it is not the last one: what is drawn after it is of no use
            assert self._newest is not None
            self._newest.void.add(request.sample_index)
            request.sample_index = None

    def _put_out(
        self,
        request: Request,
        token_ids: list[int],
        stop: Stop | None,
        logprobs: Sequence[RawLogprob | None] = (),
    ) -> RequestOutput:
        if stop is not None:
            return self._finish(request, stop, token_ids=token_ids, logprobs=logprobs)
        return RequestOutput(
            request_id=request.request_id,
            token_ids=token_ids,
            logprobs=list(logprobs),
            releasable_text=request.stop_checker.releasable_text,
            num_cached_tokens=request.num_cached_tokens,
        )

    def _take_score(self, point: LogitsPoint, raw: RawLogprob, scored: dict[str, RequestOutput]) -> None:
        request = point.request
        if math.isnan(raw.logprob):
            error = EngineError(NOT_FINITE)
            scored[request.request_id] = self._finish(request, None, error=error)
            return
        output = scored.get(request.request_id)
        if output is None:
            output = scored[request.request_id] = RequestOutput(request_id=request.request_id)
            if request.score_from == 0 and point.position == 0:
                output.token_ids.append(request.token_ids[0])
                output.logprobs.append(None)
        output.token_ids.append(request.token_ids[point.position + 1])
        output.logprobs.append(raw)
        if point.position + 2 == len(request.token_ids):
            final = self._finish(request, Stop("length"))
            output.finish_reason = final.finish_reason
            output.num_cached_tokens = final.num_cached_tokens

    def _finish(
        self,
        request: Request,
        stop: Stop | None,
        *,
        token_ids: Collection[int] = (),
        logprobs: Collection[RawLogprob | None] = (),
        error: RametError | None = None,
    ) -> RequestOutput:
        """Release a request and make its one final output."""
        self._leave(request)
        request.status = Status.FINISHED
        failure: FinishReason = "abort" if isinstance(error, RequestAborted) else "error"
        return RequestOutput(
            request_id=request.request_id,
            token_ids=list(token_ids),
            logprobs=list(logprobs),
            releasable_text=stop.text_limit if stop is not None else None,
            finish_reason=stop.finish_reason if stop is not None else failure,
            stop_reason=stop.stop_reason if stop is not None else None,
            hide_last_token=stop is not None and stop.by_token,
            num_cached_tokens=request.num_cached_tokens,
            error=error,
        )

    def fail(self, request_ids: Collection[str], kind: type[RametError], message: str) -> list[RequestOutput]:
        """End requests with an error: an abort, or a step that failed. Unknown ids are ignored.

        Each gets an error of its own: one that is raised in several places mixes up their tracebacks.
        """
        outputs = []
        for name in request_ids:  # one after the other: an id may be named twice
            request = self._running.get(name) or self._waiting.get(name) or self._held.get(name)
            if request is not None:
                outputs.append(self._finish(request, None, error=kind(message)))
        return outputs
