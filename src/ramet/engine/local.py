"""The engine as a language backend: text in, text out, over a core in this process.

Encoding, detokenizing and waiting happen here, on whatever event loop the caller runs; the core
runs in its thread. Outputs of a step cross threads once per loop, not once per request, and only
where somebody streams or a request has ended.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import os
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from ramet.engine.completions import Collector, Scorer
from ramet.engine.core import EngineCore
from ramet.engine.core_thread import CoreThread
from ramet.engine.messages import Abort, AddRequest, FlushCache, GetStats, Output, Reply, Shutdown
from ramet.errors import EngineDead, InvalidRequest
from ramet.grammar.compiler import GrammarCompiler
from ramet.grammar.matcher import Grammar
from ramet.sampling_params import SamplingParams
from ramet.scheduler.request import RequestOutput
from ramet.scheduler.stop import compile_stop_patterns
from ramet.stats import EngineStats
from ramet.tokenizer.tokenizer import Tokenizer
from ramet.types import DEFAULT_OPTIONS, Chunk, Completion, Prompt, RequestOptions, Score

MAX_BRANCHES = 1024
"""Most completions, or scored continuations, of one prompt."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Receiver:
    """Who waits for the outputs of a request.

    Waking an event loop in every step costs steps a core, so those that do not stream get all at the end.
    """

    loop: asyncio.AbstractEventLoop
    on_outputs: Callable[[list[RequestOutput]], None]
    streams: bool
    held: list[RequestOutput] = field(default_factory=list)


class LocalBackend:
    """Satisfies `ramet.backend.Backend`. Safe to use from many threads and event loops."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        core: EngineCore,
        grammars: GrammarCompiler | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._call_ids = itertools.count()
        self._random = random.Random(seed)
        self._pid = os.getpid()
        # Guards what follows. Re-entrant: the garbage collector may close an abandoned call while we hold it.
        self._lock = threading.RLock()
        self._receivers: dict[str, _Receiver] = {}
        self._replies: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[EngineStats | bool]]] = {}
        self._dead: EngineDead | None = None
        self._thread = CoreThread(core, self._on_outputs, self._on_death)
        atexit.register(self.shutdown)  # a thread inside a kernel must not outlive the interpreter

    # -------------------------------------------------------------------------------- the backend

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> list[Completion]:
        grammar = await self._grammar(params)
        collectors = self._collectors(self._encode(prompt), params)
        await self._collect(collectors)
        del grammar  # the core found it by its constraint; held until here, it could not be dropped meanwhile
        return [collector.completion() for collector in collectors.values()]

    async def stream(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncIterator[Chunk]:
        grammar = await self._grammar(params)
        collectors = self._collectors(self._encode(prompt), params)
        arrived: asyncio.Queue[RequestOutput] = asyncio.Queue()
        unfinished = len(collectors)

        def on_outputs(outputs: list[RequestOutput]) -> None:
            for output in outputs:
                arrived.put_nowait(output)

        with self._submitted(collectors, on_outputs, streams=True):
            while unfinished:
                output = await arrived.get()
                if output.error is not None:
                    raise output.error
                unfinished -= output.finish_reason is not None
                yield collectors[output.request_id].chunk(output)
        del grammar

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str | Sequence[int]],
        *,
        top_logprobs: int = 0,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Score]:
        if not continuations or len(continuations) > MAX_BRANCHES:
            raise InvalidRequest(
                f"continuations must be 1 to {MAX_BRANCHES} strings, got {len(continuations)}"
            )
        token_ids = self._encode(prompt) if prompt.parts else self._tokenizer.encode_prompt(prompt)
        call_id = next(self._call_ids)
        scorers: dict[str, Scorer] = {}
        for index, text in enumerate(continuations):
            if not isinstance(text, str) or not text:
                raise InvalidRequest(f"continuations[{index}] must be a non-empty string")
            tail = self._tokenizer.encode_continuation(text)
            if not tail:
                raise InvalidRequest(f"continuations[{index}] {text!r} has no tokens in this vocabulary")
            message = AddRequest(
                request_id=f"{call_id}.{index}",
                token_ids=token_ids + tail,
                params=SamplingParams(max_tokens=0),
                seed=0,
                score_from=len(token_ids),
            )
            scorers[message.request_id] = Scorer(message, text, len(token_ids))
        await self._collect(scorers)
        return [scorer.score() for scorer in scorers.values()]

    async def cache_prefix(
        self, prompt: Prompt, *, lease_seconds: float = 0.0, options: RequestOptions = DEFAULT_OPTIONS
    ) -> None:
        await self.generate(prompt, SamplingParams(max_tokens=0))

    def render(self, prompt: Prompt) -> str:
        return self._tokenizer.render(prompt)

    # ------------------------------------------------------------------------------------- control

    async def stats(self) -> EngineStats:
        """The counters since the engine started."""
        value = await self._call(GetStats(next(self._call_ids)))
        assert isinstance(value, EngineStats)
        return value

    async def flush_cache(self) -> bool:
        """Drop all cached KV that no request holds; true if every slot is free now."""
        return bool(await self._call(FlushCache(next(self._call_ids))))

    def shutdown(self) -> None:
        """Abort what runs and stop the core; it has stopped on return. May be called more than once."""
        if os.getpid() != self._pid:
            return  # a forked process has a copy of everything but the thread
        with self._lock:
            if self._dead is None:
                self._dead = EngineDead("the engine has been shut down")
                self._thread.send(Shutdown())
        if self._grammars is not None:
            self._grammars.close()
        atexit.unregister(self.shutdown)
        self._thread.join()

    # ----------------------------------------------------------------------------------- internals

    def _encode(self, prompt: Prompt) -> list[int]:
        token_ids = self._tokenizer.encode_prompt(prompt)
        if not token_ids:
            raise InvalidRequest("prompt must not be empty")
        for kind in set(map(type, token_ids)) - {int}:  # whoever builds a `Tokens` by hand
            raise InvalidRequest(f"prompt token ids must be integers, got {kind.__name__}")
        return token_ids

    async def _grammar(self, params: SamplingParams) -> Grammar | None:
        """The grammar of a constraint, compiled while the core goes on.

        Raises:
            InvalidConstraint: it cannot be compiled.
            EngineDead: the engine takes no more requests.
        """
        if params.constraint is None or self._grammars is None:
            return None
        with self._alive():
            future = asyncio.wrap_future(self._grammars.submit(params.constraint))
        future.add_done_callback(_retrieve)
        try:
            return await asyncio.shield(future)  # others may wait for the same one
        except asyncio.CancelledError:
            self._grammars.give_up(params.constraint)
            if future.cancelled() and self._dead is not None:  # by the shutdown, not by our caller
                raise _own(self._dead) from None
            raise
        except InvalidRequest as error:  # theirs too
            raise type(error)(str(error)) from error

    def _collectors(self, token_ids: list[int], params: SamplingParams) -> dict[str, Collector]:
        """One request per completion; together they are branches of one prompt in the radix tree."""
        if params.n > MAX_BRANCHES:
            raise InvalidRequest(f"n must be at most {MAX_BRANCHES}, got {params.n}")
        for token_id in params.stop_token_ids:
            if token_id >= self._tokenizer.vocab_size:
                raise InvalidRequest(
                    f"stop_token_ids: {token_id} is outside the vocabulary of {self._tokenizer.vocab_size}"
                )
        compile_stop_patterns(params)  # a bad pattern is refused here, not in the core
        call_id = next(self._call_ids)
        seed = self._random.getrandbits(63) if params.seed is None else params.seed
        single = replace(params, n=1)
        collectors = {}
        for index in range(params.n):
            message = AddRequest(
                request_id=f"{call_id}.{index}",
                token_ids=token_ids,
                params=single,
                seed=(seed + index * 0x9E3779B97F4A7C15) % 2**64,
            )
            collectors[message.request_id] = Collector(message, index, self._tokenizer.vocab)
        return collectors

    @contextmanager
    def _submitted(
        self,
        receivers: Mapping[str, Collector | Scorer],
        on_outputs: Callable[[list[RequestOutput]], None],
        *,
        streams: bool,
    ) -> Iterator[None]:
        """Submit requests; ``on_outputs`` is called on this loop with outputs of one of them, as they come if
        it ``streams`` and else at its end. Leaving early aborts what still runs."""
        loop = asyncio.get_running_loop()
        with self._alive():
            for name in receivers:
                self._receivers[name] = _Receiver(loop, on_outputs, streams)
            self._thread.send(*(receiver.message for receiver in receivers.values()))
        try:
            yield
        finally:
            with self._lock:
                unfinished = [name for name in receivers if self._receivers.pop(name, None) is not None]
            if unfinished:
                self._thread.send(Abort(unfinished))

    async def _collect(self, receivers: Mapping[str, Collector | Scorer]) -> None:
        """Submit requests and wait until all have ended, or one has failed."""
        done = asyncio.get_running_loop().create_future()
        unfinished = set(receivers)
        outputs: list[RequestOutput] = []

        def on_outputs(of_request: list[RequestOutput]) -> None:
            outputs.extend(of_request)
            last = of_request[-1]
            unfinished.discard(last.request_id)
            if not done.done() and (last.error is not None or not unfinished):
                done.set_result(None)

        with self._submitted(receivers, on_outputs, streams=False):
            await done
        for output in outputs:
            if output.error is not None:
                raise output.error
            receivers[output.request_id].take(output)

    async def _call(self, message: FlushCache | GetStats) -> EngineStats | bool:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[EngineStats | bool] = loop.create_future()
        with self._alive():
            self._replies[message.call_id] = (loop, future)
            self._thread.send(message)
        return await future

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Hold the lock of an engine that takes requests.

        Raises:
            EngineDead: it takes none any more, or this is a forked process.
        """
        if os.getpid() != self._pid:  # the lock may be held for ever, and no thread would answer
            raise EngineDead("the engine runs in the process that made it; a forked one must make its own")
        with self._lock:
            if self._dead is not None:
                raise _own(self._dead)
            yield

    # ------------------------------------------------------------------- called on the core's thread

    def _on_outputs(self, outputs: Sequence[Output]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        with self._lock:
            for output in outputs:
                if isinstance(output, Reply):
                    loop, future = self._replies.pop(output.call_id)
                    by_loop.setdefault(loop, []).append(partial(_set_result, future, output.value))
                    continue
                receiver = self._receivers.get(output.request_id)
                if receiver is None:
                    continue  # given up: its abort is on the way
                receiver.held.append(output)
                if output.finish_reason is not None:
                    del self._receivers[output.request_id]
                elif not (receiver.streams or receiver.loop.is_closed()):
                    continue
                held, receiver.held = receiver.held, []
                by_loop.setdefault(receiver.loop, []).append(partial(receiver.on_outputs, held))
        for loop, calls in by_loop.items():
            try:
                loop.call_soon_threadsafe(_call_all, calls)
            except RuntimeError:  # the loop was closed under its requests
                self._abandon(loop)

    def _abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            lost = [name for name, receiver in self._receivers.copy().items() if receiver.loop is loop]
            for name in lost:
                self._receivers.pop(name, None)
        if lost:
            logger.warning("aborting %d requests whose event loop was closed", len(lost))
            self._thread.send(Abort(lost))

    def _on_death(self, death: EngineDead) -> None:
        with self._lock:
            self._dead = death
            request_ids = list(self._receivers)
            replies, self._replies = self._replies, {}
        self._on_outputs(
            [RequestOutput(request_id=name, finish_reason="error", error=_own(death)) for name in request_ids]
        )
        for loop, future in replies.values():
            try:
                loop.call_soon_threadsafe(_set_exception, future, _own(death))
            except RuntimeError:  # the loop was closed, nobody waits
                logger.debug("a caller's event loop was closed before its answer")


def _own(death: EngineDead) -> EngineDead:
    """The same error anew: one that is raised in several places mixes up their tracebacks."""
    error = EngineDead(str(death))
    error.__cause__ = death.__cause__
    return error


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _retrieve(future: asyncio.Future[Grammar]) -> None:
    """Look at an error, so that it is not reported as lost if the caller has gone."""
    if not future.cancelled():
        future.exception()


def _set_result(future: asyncio.Future[EngineStats | bool], value: EngineStats | bool) -> None:
    if not future.done():
        future.set_result(value)


def _set_exception(future: asyncio.Future[EngineStats | bool], error: EngineDead) -> None:
    if not future.done():
        future.set_exception(error)
