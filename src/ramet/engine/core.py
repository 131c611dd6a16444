"""The engine core: messages in, outputs out, one step at a time. No threads, no text, no tensors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from ramet.config import SchedulerConfig
from ramet.engine.compiling import Compiling
from ramet.engine.inputs import build_model_input, build_sampling
from ramet.engine.messages import (
    Abort,
    AddRequest,
    Compiled,
    FlushCache,
    GetStats,
    Message,
    Output,
    Reply,
    Shutdown,
)
from ramet.errors import (
    EngineDead,
    EngineError,
    InvalidRequest,
    Overloaded,
    PromptTooLong,
    RametError,
    RequestAborted,
    UnsupportedFeature,
)
from ramet.grammar.compiler import GrammarCompiler
from ramet.model_io import DrawnStep, LaunchedStep, ModelRunner
from ramet.radix import PrefixCache
from ramet.scheduler.batch import Batch
from ramet.scheduler.request import Request, RequestOutput
from ramet.scheduler.scheduler import Scheduler
from ramet.scheduler.stop import StopChecker
from ramet.stats import EngineStats
from ramet.tokenizer.vocab import Vocab

logger = logging.getLogger(__name__)

T = TypeVar("T")


class EngineCore:
    """Schedules requests over one model runner. Owns the runner and the compiler of grammars."""

    def __init__(
        self,
        runner: ModelRunner,
        config: SchedulerConfig,
        *,
        vocab: Vocab | None = None,
        eos_token_ids: Collection[int] = (),
        enable_prefix_cache: bool = True,
        grammars: GrammarCompiler | None = None,
        enable_jump_forward: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_compiled: Callable[[], None] = lambda: None
        """Called, on any thread, when a grammar is compiled: then the core wants to be told `Compiled`."""
        self._runner = runner
        self._vocab = vocab
        self._eos_token_ids = eos_token_ids
        self._grammars = grammars
        self._compiling = None if grammars is None else Compiling(grammars, lambda: self.on_compiled())
        self._enable_jump_forward = enable_jump_forward
        self.cache = PrefixCache(runner.num_slots, reuse=enable_prefix_cache)
        self._enable_prefix_cache = enable_prefix_cache
        self.scheduler = Scheduler(self.cache, config, clock=clock)
        self._overlap = config.overlap and runner.is_asynchronous
        self._drawn: tuple[Batch, DrawnStep] | None = None  # the step whose results nobody has taken yet
        self.max_sequence_tokens = min(runner.context_length, runner.num_slots)

    def step(self) -> list[RequestOutput]:
        """Compute one step: the loop a reader should meet first.

        Where the device computes while Python goes on, a step is launched before the results of the one
        before it are there: tokens that are not known yet are guessed by name (`Request.guess`). What it is
        to draw is said once they are: masks of grammars and penalties need them.
        """
        batch = self.scheduler.schedule()
        launched = None if batch is None else _attempt(lambda: self._launch(batch))
        outputs = self._collect()
        if batch is not None and launched is not None:
            outputs += self._draw(batch, launched)
        return outputs if self._overlap else outputs + self._collect()

    def _launch(self, batch: Batch) -> LaunchedStep:
        launched = self._runner.launch(build_model_input(batch))
        self.scheduler.launched(batch)
        return launched

    def _draw(self, batch: Batch, launched: LaunchedStep | EngineError) -> list[RequestOutput]:
        """Let a launched step draw. Requests of one that could not be launched, or drawn, fail."""
        outcome: DrawnStep | EngineError
        if isinstance(launched, EngineError):
            outcome = launched
        else:
            outcome = _attempt(lambda: launched.draw(build_sampling(batch, self._runner.vocab_size)))
        if isinstance(outcome, EngineError):
            request_ids = [request.request_id for request in batch.requests]
            return self.scheduler.fail(request_ids, EngineError, str(outcome))
        self._drawn = batch, outcome
        return []

    def _collect(self) -> list[RequestOutput]:
        """The results of the step drawn last, if nobody has taken them."""
        if self._drawn is None:
            return []
        batch, drawn = self._drawn
        self._drawn = None
        return self.scheduler.update(batch, drawn.collect())

    @property
    def has_work(self) -> bool:
        return self._drawn is not None or self.scheduler.has_work

    def handle(self, *messages: Message) -> list[Output]:
        """Take messages that were sent together; what can be answered at once is.

        Requests among them are accepted together or, if too many would wait, refused together.
        """
        overload = self.scheduler.why_overloaded(sum(isinstance(message, AddRequest) for message in messages))
        outputs: list[Output] = []
        for message in messages:
            if overload is not None and isinstance(message, AddRequest):
                outputs.append(_refusal(message, Overloaded(overload)))
            else:
                outputs += self._handle(message)
        return outputs

    def stats(self) -> EngineStats:
        stats, grammars = self.scheduler.stats(), self._grammars
        if grammars is None:
            return stats
        return replace(
            stats, grammars_compiled=grammars.num_compiled, grammar_compile_seconds=grammars.compile_seconds
        )

    def close(self) -> None:
        if self._grammars is not None:
            self._grammars.close()
        self._runner.close()

    def _handle(self, message: Message) -> Sequence[Output]:
        match message:
            case AddRequest():
                try:
                    return self._add(message)
                except RametError as error:
                    return [_refusal(message, error)]
            case Abort():
                return self._abort(message.request_ids, "the request was aborted")
            case FlushCache():
                self.scheduler.flush()
                return [Reply(message.call_id, self.cache.num_free == self.cache.num_slots)]
            case GetStats():
                return [Reply(message.call_id, self.stats())]
            case Compiled():
                return self._begin_compiled()
            case Shutdown():
                return self._abort(self.scheduler.request_ids(), "the engine is shutting down")

    def _add(self, message: AddRequest) -> list[RequestOutput]:
        params = message.params
        room = self._room_after(message.token_ids, message.score_from)
        if room == 0 and params.max_tokens > 0 and message.score_from is None:
            raise PromptTooLong(
                f"the prompt's {len(message.token_ids)} tokens leave no room to generate: "
                f"a sequence may have {self.max_sequence_tokens}"
            )
        for token_id, _ in params.logit_bias[-1:]:  # in order of token ids
            if token_id >= self._runner.vocab_size:
                raise InvalidRequest(
                    f"logit_bias: {token_id} is outside the vocabulary of {self._runner.vocab_size} tokens"
                )
        if params.constraint is not None and self._compiling is None:
            raise UnsupportedFeature("constraints need a tokenizer, and this engine has none")
        if params.max_tokens > room:
            params = replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))
        if message.score_from is not None and len(message.token_ids) == 1:  # nothing stands before it
            return [
                RequestOutput(
                    request_id=message.request_id,
                    token_ids=message.token_ids,
                    logprobs=[None],
                    finish_reason="length",
                )
            ]
        request = Request(
            message.request_id,
            list(message.token_ids),
            params,
            stop_checker=StopChecker(params, self._eos_token_ids, self._vocab),
            seed=message.seed,
            # Without prefix cache each group of requests that were made together has a tree of its own.
            namespace=message.namespace if self._enable_prefix_cache else _group(message.request_id),
            client_id=message.client_id,
            priority=message.priority,
            score_from=message.score_from,
            lease_seconds=message.lease_seconds if self._enable_prefix_cache else 0.0,
        )
        self.scheduler.accept(request)
        if params.constraint is None or self._compiling is None:
            return self.scheduler.begin(request)
        self._compiling.add(request, params.constraint)
        return self._begin_compiled()  # at once, if it is known

    def _begin_compiled(self) -> list[RequestOutput]:
        """Begin the requests whose grammar has been compiled."""
        outputs: list[RequestOutput] = []
        for request, outcome in () if self._compiling is None else self._compiling.take():
            if isinstance(outcome, RametError):
                outputs += self.scheduler.fail([request.request_id], type(outcome), str(outcome))
                continue
            params = request.params
            if params.max_tokens > 0:
                # Only sampled tokens have logprobs, and for stop regexes many tokens at once take long
                is_plain = params.logprobs is None and not params.stop_regex
                request.matcher = outcome.matcher(jump_forward=self._enable_jump_forward and is_plain)
            outputs += self.scheduler.begin(request)
        return outputs

    def _abort(self, request_ids: Sequence[str], reason: str) -> list[RequestOutput]:
        if self._compiling is not None:
            for request_id in request_ids:
                self._compiling.give_up(request_id)
        return self.scheduler.fail(request_ids, RequestAborted, reason)

    def _room_after(self, token_ids: list[int], score_from: int | None) -> int:
        """How many tokens may follow a prompt.

        Raises:
            InvalidRequest: no tokens, or a token id outside the vocabulary.
            PromptTooLong: more tokens than the context or the KV pool holds.
        """
        runner = self._runner
        if not token_ids:
            raise InvalidRequest("prompt must not be empty")
        lowest, highest = min(token_ids), max(token_ids)
        if lowest < 0 or highest >= runner.vocab_size:
            wrong = lowest if lowest < 0 else highest
            raise InvalidRequest(
                f"prompt token id {wrong} is outside the vocabulary of {runner.vocab_size} tokens"
            )
        needed = len(token_ids) if score_from is None else len(token_ids) - 1
        if needed > runner.context_length:
            raise PromptTooLong(
                f"the prompt has {len(token_ids)} tokens, the model's context is {runner.context_length}"
            )
        if needed > runner.num_slots:
            raise PromptTooLong(
                f"the prompt has {len(token_ids)} tokens, the KV pool holds {runner.num_slots}; "
                "raise max_kv_tokens"
            )
        return max(self.max_sequence_tokens - len(token_ids), 0)


def _attempt(part: Callable[[], T]) -> T | EngineError:
    """A part of a step, or why it failed; an engine that is dead does not go on."""
    try:
        return part()
    except EngineDead:
        raise
    except Exception as error:  # whatever a kernel raises must not take the engine along
        logger.exception("a step failed")
        return EngineError(f"the step that computed this request failed: {type(error).__name__}: {error}")


def _refusal(message: AddRequest, error: RametError) -> RequestOutput:
    return RequestOutput(request_id=message.request_id, finish_reason="error", error=error)


def _group(request_id: str) -> str:
    """What the branches of one call have in common: ``7.0`` and ``7.1`` belong to ``7``."""
    return request_id.rpartition(".")[0] or request_id
