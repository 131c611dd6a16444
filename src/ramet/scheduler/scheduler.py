"""Which tokens are computed in the next step, and what becomes of its results.

A running request is a path in the radix tree; its work is the part of the path without KV. There are
no phases: prefill, chunks of it, decoding, scoring and resuming after preemption are all "rows of nodes".
The scheduler knows nothing of text or tensors.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence

from ramet.config import SchedulerConfig
from ramet.errors import EngineError, InvalidRequest, RametError, RequestAborted
from ramet.model_io import ModelOutput
from ramet.radix import PrefixCache, span_of
from ramet.scheduler.batch import Batch, BatchBuilder, LogitsPoint
from ramet.scheduler.policy import POLICIES
from ramet.scheduler.request import RawLogprob, Request, RequestOutput, Status
from ramet.scheduler.stop import Stop
from ramet.stats import EngineStats
from ramet.types import FinishReason

ADMISSION_RESERVE = 8
"""Slots kept for the next tokens of each running request when another one is admitted."""

NOT_FINITE = "the model's logits are not finite"


def check_config(config: SchedulerConfig) -> None:
    """Refuse options that make no sense; before a model is loaded for them.

    Raises:
        InvalidRequest: an unknown policy, or a limit below 1.
    """
    if config.policy not in POLICIES:
        raise InvalidRequest(f"policy must be one of {', '.join(sorted(POLICIES))}, got {config.policy!r}")
    for name in ("max_batch_tokens", "max_running_requests"):
        limit = getattr(config, name)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidRequest(f"{name} must be an integer of at least 1, got {limit!r}")


class Scheduler:
    """Owns the waiting and running requests and their paths."""

    def __init__(self, cache: PrefixCache, config: SchedulerConfig) -> None:
        """
        Raises:
            InvalidRequest: an unknown policy, or a limit below 1.
        """
        check_config(config)
        self._cache = cache
        self._policy = POLICIES[config.policy]
        self._max_batch_tokens = config.max_batch_tokens
        self._max_running = config.max_running_requests
        self._waiting: OrderedDict[str, Request] = OrderedDict()  # in order of arrival; the preempted first
        self._running: dict[str, Request] = {}  # in order of admission: the youngest gives way first
        self._stats = EngineStats(total_slots=cache.num_slots)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def request_ids(self) -> list[str]:
        """All requests that have not finished."""
        return [*self._running, *self._waiting]

    def add(self, request: Request) -> list[RequestOutput]:
        """Queue a request. What its constraint forces before anything is computed is put out at once."""
        assert request.request_id not in self._waiting, request.request_id
        assert request.request_id not in self._running, request.request_id
        self._stats.requests += 1
        self._stats.prompt_tokens += request.num_prompt_tokens
        request.queued_at_step = self._stats.steps
        self._waiting[request.request_id] = request
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
        stats = self._stats
        stats.running, stats.waiting = len(self._running), len(self._waiting)
        stats.free_slots = self._cache.num_free
        stats.evicted_tokens = self._cache.num_evicted_tokens
        return EngineStats(**{name: getattr(stats, name) for name in EngineStats.__slots__})

    # ---------------------------------------------------------------------------------- scheduling

    def schedule(self) -> Batch | None:
        """The next step, or ``None`` if nothing can be computed now."""
        preempted = self._grow_running()
        if self._waiting and not preempted:
            self._admit_waiting()
        # The tree keeps its shape from here on. Requests that need one row go first, so that a long
        # prompt computed in chunks never holds up decoding.
        builder = BatchBuilder(self._max_batch_tokens)
        for request in sorted(self._running.values(), key=_needs_many_rows):
            if builder.budget == 0:
                break
            builder.add(request)
        return builder.build()

    def _grow_running(self) -> bool:
        """Put the tokens appended last into the tree; the youngest give way if slots run out."""
        preempted = False
        for request in list(self._running.values()):
            while request.status is Status.RUNNING and not self._grow(request):
                self._preempt(next(reversed(self._running.values())))
                preempted = True
        return preempted

    def _grow(self, request: Request) -> bool:
        path = request.path
        assert path is not None, request.request_id
        length = path.length
        return length == request.num_path_tokens or self._cache.extend(path, request.token_ids[length:])

    def _admit_waiting(self) -> None:
        """Admit requests in the policy's order while the pending work does not fill a step."""
        if self._is_full():
            return
        order = self._policy(list(self._waiting.values()), self._cache, self._stats.steps)
        for request in order:
            if self._is_full():
                break
            reserve = min(ADMISSION_RESERVE * len(self._running), self._cache.num_slots // 4)
            path = self._cache.admit(request.path_tokens(), request.namespace, reserve=reserve)
            if path is None:
                break  # not even for a smaller one: whoever is first must not starve
            if not request.was_admitted:
                request.was_admitted = True
                request.num_cached_tokens = min(path.num_matched, request.num_prompt_tokens - 1)
                self._stats.cached_tokens += request.num_cached_tokens
            request.path = path
            request.status = Status.RUNNING
            del self._waiting[request.request_id]
            self._running[request.request_id] = request

    def _is_full(self) -> bool:
        too_much_work = self._cache.num_pending_tokens >= self._max_batch_tokens
        return too_much_work or len(self._running) >= self._max_running

    def _preempt(self, request: Request) -> None:
        """Let a request wait again. Its KV stays as ordinary cache until someone needs the room."""
        self._leave(request)
        self._stats.preemptions += 1
        request.status = Status.WAITING
        request.queued_at_step = self._stats.steps
        self._waiting[request.request_id] = request
        self._waiting.move_to_end(request.request_id, last=False)

    def _leave(self, request: Request) -> None:
        self._running.pop(request.request_id, None)
        self._waiting.pop(request.request_id, None)
        if request.path is not None:
            self._cache.release(request.path)
            request.path = None

    # ------------------------------------------------------------------------------------ results

    def update(self, batch: Batch, output: ModelOutput) -> list[RequestOutput]:
        """Take the results of a step: what each request put out in it."""
        self._stats.steps += 1
        self._stats.rows += batch.num_rows
        self._stats.computed_tokens += batch.num_prompt_rows
        for node, num_computed in batch.computed():
            self._cache.mark_computed(node, num_computed)
        outputs = [self._finish(request, Stop("length")) for request in batch.cached]
        outputs += [self._take_sample(point, index, output) for index, point in enumerate(batch.samples)]
        scored: dict[str, RequestOutput] = {}
        for index, point in enumerate(batch.scores):
            if point.request.status is Status.RUNNING:
                self._take_score(point, float(output.score_logprobs[index]), scored)
        return outputs + list(scored.values())

    def _take_sample(self, point: LogitsPoint, index: int, output: ModelOutput) -> RequestOutput:
        request = point.request
        token_id = int(output.token_ids[index])
        if token_id < 0:
            return self._finish(request, None, error=EngineError(NOT_FINITE))
        self._stats.generated_tokens += 1
        try:
            token_ids, stop = request.take(token_id)
        except InvalidRequest as error:
            return self._finish(request, None, error=error)
        self._stats.jump_forward_tokens += len(token_ids) - 1
        logprobs: list[RawLogprob | None] = []
        if request.params.logprobs is not None:
            top = request.params.logprobs
            logprobs.append(
                RawLogprob(
                    float(output.logprobs[index]),
                    output.top_token_ids[index, :top].tolist(),
                    output.top_logprobs[index, :top].tolist(),
                )
            )
        return self._put_out(request, token_ids, stop, logprobs)

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

    def _take_score(self, point: LogitsPoint, logprob: float, scored: dict[str, RequestOutput]) -> None:
        request = point.request
        if math.isnan(logprob):
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
        output.logprobs.append(RawLogprob(logprob, [], []))
        request.logits_cursor = point.position + 1
        if request.logits_cursor == len(request.token_ids) - 1:
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
            request = self._running.get(name) or self._waiting.get(name)
            if request is not None:
                outputs.append(self._finish(request, None, error=kind(message)))
        return outputs


def _needs_many_rows(request: Request) -> bool:
    assert request.path is not None, request.request_id
    tail, above = request.path.tail, request.path.tail.parent
    above_pending = above is not None and not above.is_root and span_of(above).num_computed < len(above)
    return above_pending or len(tail) - span_of(tail).num_computed > 1
