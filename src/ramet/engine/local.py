"""The engine as a language backend: text in, text out, over a core in a thread or in a process of its own.

Encoding, detokenizing and waiting happen here, on whatever event loop the caller runs. Outputs of a step
cross threads once per loop, not once per request, and only where somebody streams or a request has ended.
Must not know: where the core runs.
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

from ramet.checks import check_float, check_int
from ramet.engine.completions import Arrived, Collector, Scorer, chunks_of, encode_continuation, encode_prompt
from ramet.engine.messages import (
    Abort,
    AddRequest,
    FlushCache,
    GetStats,
    Output,
    Reply,
    RunningCore,
    Shutdown,
)
from ramet.errors import EngineDead, InvalidRequest, PromptTooLong
from ramet.model_card import ModelCard
from ramet.sampling_params import MAX_TOP_LOGPROBS, SamplingParams
from ramet.scheduler.request import RequestOutput
from ramet.scheduler.stop import compile_stop_patterns
from ramet.stats import EngineStats
from ramet.tokenizer.tokenizer import Tokenizer
from ramet.types import DEFAULT_OPTIONS, Chunk, Completion, Generated, Prompt, RequestOptions, Score, Text

MAX_BRANCHES = 1024
"""Most completions, or scored continuations, of one prompt."""
LONG_TEXT = 16_384
"""Characters that take milliseconds to encode."""
PART_CHARACTERS = 32
"""As long as a part of a prompt takes: a message is laid out by a template."""
MAX_LEASE_SECONDS = 365 * 86400.0

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

    def __init__(self, tokenizer: Tokenizer, core: RunningCore, card: ModelCard, *, seed: int = 0) -> None:
        """``core`` has not been started yet."""
        self._tokenizer = tokenizer
        self._card = card
        self._core = core
        self._call_ids = itertools.count()
        self._random = random.Random(seed)
        self._pid = os.getpid()
        # Guards what follows. Re-entrant: the garbage collector may close an abandoned call while we hold it.
        self._lock = threading.RLock()
        self._receivers: dict[str, _Receiver] = {}
        self._replies: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[EngineStats | bool]]] = {}
        self._dead: EngineDead | None = None  # it takes no more requests
        self._death: EngineDead | None = None  # it has died by itself
        self._death_callbacks: list[Callable[[EngineDead], None]] = []
        core.start(self._on_outputs, self._on_death)
        atexit.register(self.shutdown)  # a thread inside a kernel must not outlive the interpreter

    # -------------------------------------------------------------------------------- the backend

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> list[Completion]:
        collectors = self._collectors(await self.encode(prompt), params, options)
        await self._collect(collectors)
        return [collector.completion() for collector in collectors.values()]

    async def stream(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncIterator[Chunk]:
        collectors = self._collectors(await self.encode(prompt), params, options)
        arrived = Arrived()
        unfinished = len(collectors)
        with self._submitted(collectors, arrived.put, streams=True):
            while unfinished:
                for chunk in chunks_of(await arrived.take(), collectors):
                    unfinished -= chunk.completion is not None
                    yield chunk

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str | Sequence[int]],
        *,
        top_logprobs: int = 0,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Score]:
        if not continuations or len(continuations) > MAX_BRANCHES:
            raise InvalidRequest(f"continuations must be 1 to {MAX_BRANCHES}, got {len(continuations)}")
        check_int("top_logprobs", top_logprobs, 0, MAX_TOP_LOGPROBS)
        params = SamplingParams(max_tokens=0, temperature=0.0, logprobs=top_logprobs)
        token_ids = await self.encode(prompt) if prompt.parts else self._tokenizer.encode_prompt(prompt)
        call_id = next(self._call_ids)
        scorers: dict[str, Scorer] = {}
        for index, continuation in enumerate(continuations):
            text, tail = encode_continuation(continuation, f"continuations[{index}]", self._tokenizer)
            message = AddRequest(
                request_id=f"{call_id}.{index}",
                token_ids=token_ids + tail,
                params=params,
                seed=0,
                namespace=options.cache_salt,
                client_id=options.client_id,
                priority=options.priority,
                score_from=len(token_ids),
            )
            scorers[message.request_id] = Scorer(message, text, len(token_ids), self._tokenizer.vocab)
        await self._collect(scorers)
        return [scorer.score() for scorer in scorers.values()]

    async def cache_prefix(
        self, prompt: Prompt, *, lease_seconds: float = 0.0, options: RequestOptions = DEFAULT_OPTIONS
    ) -> None:
        check_float("lease_seconds", lease_seconds, 0.0, MAX_LEASE_SECONDS)
        params = SamplingParams(max_tokens=0)
        await self._collect(
            self._collectors(await self.encode(prompt), params, options, float(lease_seconds))
        )

    async def encode(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids. A long prompt is encoded on another thread: the event loop goes on.

        Raises:
            InvalidRequest: there are none, or something in it is no text and no token.
            PromptTooLong: so much text cannot be few enough tokens, whatever they are.
        """
        num_characters = sum(len(part.text) for part in prompt.parts if isinstance(part, (Text, Generated)))
        most = self._card.max_sequence_tokens * self._tokenizer.vocab.longest_text
        if num_characters > most:
            raise PromptTooLong(
                f"the prompt has {num_characters} characters; no {self._card.max_sequence_tokens} tokens, "
                f"the most of a sequence, spell more than {most}"
            )
        if num_characters + PART_CHARACTERS * len(prompt.parts) > LONG_TEXT:
            return await asyncio.to_thread(encode_prompt, prompt, self._tokenizer)
        return encode_prompt(prompt, self._tokenizer)

    def render(self, prompt: Prompt) -> str:
        return self._tokenizer.render(prompt)

    # ------------------------------------------------------------------------------------- control

    @property
    def card(self) -> ModelCard:
        """What the model is like."""
        return self._card

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return self._dead is None and os.getpid() == self._pid

    def add_death_callback(self, callback: Callable[[EngineDead], None]) -> None:
        """Call this once, from any thread, if the engine dies by itself; at once if it has."""
        with self._lock:
            if self._death is None:
                self._death_callbacks.append(callback)
                return
        callback(_own(self._death))

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
                self._core.send(Shutdown())
        atexit.unregister(self.shutdown)
        self._core.join()

    # ----------------------------------------------------------------------------------- internals

    def _collectors(
        self,
        token_ids: list[int],
        params: SamplingParams,
        options: RequestOptions,
        lease_seconds: float = 0.0,
    ) -> dict[str, Collector]:
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
                namespace=options.cache_salt,
                client_id=options.client_id,
                priority=options.priority,
                lease_seconds=lease_seconds,
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
        try:
            with self._alive():
                for name in receivers:
                    self._receivers[name] = _Receiver(loop, on_outputs, streams)
                self._core.send(*(receiver.message for receiver in receivers.values()))
            yield
        finally:
            with self._lock:
                unfinished = [name for name in receivers if self._receivers.pop(name, None) is not None]
            if unfinished:
                self._core.send(Abort(unfinished))

    async def _collect(self, receivers: Mapping[str, Collector | Scorer]) -> None:
        """Submit requests and wait until all have ended, or one has failed."""
        done = asyncio.get_running_loop().create_future()
        unfinished = set(receivers)
        outcomes: list[list[RequestOutput]] = []

        def on_outputs(outputs: list[RequestOutput]) -> None:
            outcomes.append(outputs)
            last = outputs[-1]
            unfinished.discard(last.request_id)
            if not done.done() and (last.error is not None or not unfinished):
                done.set_result(None)

        with self._submitted(receivers, on_outputs, streams=False):
            await done
        for outputs in outcomes:
            last = outputs[-1]
            if last.error is not None:
                raise last.error
            receivers[last.request_id].take(outputs)

    async def _call(self, message: FlushCache | GetStats) -> EngineStats | bool:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[EngineStats | bool] = loop.create_future()
        with self._alive():
            self._replies[message.call_id] = (loop, future)
            self._core.send(message)
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

    # ------------------------------------------------------------------- called on a thread of the core's

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
            self._core.send(Abort(lost))

    def _on_death(self, death: EngineDead) -> None:
        with self._lock:
            callbacks: list[Callable[[EngineDead], None]] = []
            if self._dead is None:
                self._death, callbacks = death, self._death_callbacks
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
        for callback in callbacks:
            callback(_own(death))


def _own(death: EngineDead) -> EngineDead:
    """The same error anew: one that is raised in several places mixes up their tracebacks."""
    error = EngineDead(str(death))
    error.__cause__ = death.__cause__
    return error


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _set_result(future: asyncio.Future[EngineStats | bool], value: EngineStats | bool) -> None:
    if not future.done():
        future.set_result(value)


def _set_exception(future: asyncio.Future[EngineStats | bool], error: EngineDead) -> None:
    if not future.done():
        future.set_exception(error)
