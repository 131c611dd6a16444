"""One request while it is in the engine: the only mutable object per request, and what it puts out."""

from __future__ import annotations

from enum import Enum

import msgspec
import numpy as np

from ramet.errors import RametError
from ramet.grammar.matcher import GrammarMatcher
from ramet.model_io import Int32Array, ModelOutput, UInt32Array
from ramet.radix import Path, is_computed
from ramet.sampling_params import SamplingParams
from ramet.scheduler.stop import Stop, StopChecker
from ramet.types import FinishReason


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class RawLogprob(msgspec.Struct, frozen=True, array_like=True):
    """The logprob of one token, and the likeliest alternatives, likeliest first."""

    logprob: float
    top_token_ids: list[int]
    top_logprobs: list[float]

    @classmethod
    def of(cls, request: Request, logprob: float, output: ModelOutput, place: int | None) -> RawLogprob:
        """That of a token with the alternatives that its request wants; they stand at ``place``."""
        top = (request.params.logprobs or 0) if place is not None else 0
        return cls(
            float(logprob),
            output.top_token_ids[place, :top].tolist() if top else [],
            output.top_logprobs[place, :top].tolist() if top else [],
        )


class RequestOutput(msgspec.Struct, kw_only=True, omit_defaults=True, tag=True):
    """What one step added to one request. Exactly one output of a request carries ``finish_reason``.

    ``releasable_text`` is the number of characters that may be shown so far (``None``: all); in the last
    output it is the length of the final text. ``hide_last_token`` says that the last token is a stop token,
    which is not part of the text. ``error`` goes with ``finish_reason == "error"`` (or "abort").
    """

    request_id: str
    token_ids: list[int] = []
    logprobs: list[RawLogprob | None] = []
    releasable_text: int | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    hide_last_token: bool = False
    num_cached_tokens: int = 0
    error: RametError | None = None


class Request:
    """A prompt that is continued, or a continuation that is scored.

    ``token_ids`` are prompt and output; ``path`` says how many of them stand in the tree. The *logits
    cursor* is the next position whose logits are wanted: of the last token to sample another one, of each
    token before a scored one. It moves on when a step is launched.

    While a token is being drawn, its place may be taken by `guess`, so that the row after it can be planned.
    """

    def __init__(
        self,
        request_id: str,
        token_ids: list[int],
        params: SamplingParams,
        *,
        stop_checker: StopChecker,
        seed: int,
        namespace: str = "",
        client_id: str = "",
        priority: int = 0,
        score_from: int | None = None,
        matcher: GrammarMatcher | None = None,
        lease_seconds: float = 0.0,
    ) -> None:
        assert score_from is None or 0 <= score_from < len(token_ids), (score_from, len(token_ids))
        self.request_id = request_id
        self.params = params
        self.token_ids = token_ids
        self.num_prompt_tokens = len(token_ids)
        self._prompt = np.asarray(token_ids, dtype=np.int32)
        self.seed = seed
        self.namespace = namespace
        self.client_id = client_id
        self.priority = priority  # a lower one is admitted first
        self.score_from = score_from  # position of the first token to score; None = generate
        self.status = Status.WAITING
        self.path: Path | None = None
        self.queued_at_step = 0
        self.was_admitted = False
        self.num_cached_tokens = 0
        self.stop_checker = stop_checker
        self.matcher = matcher  # of its constraint, once that is compiled
        self.lease_seconds = lease_seconds  # how long its prompt stays cached in any case; 0 = as usual
        self.penalizes = (
            params.repetition_penalty != 1.0
            or params.frequency_penalty != 0.0
            or params.presence_penalty != 0.0
        )
        self.is_biased = bool(params.logit_bias) or params.min_tokens > 0
        # Tokens that penalties apply to, and how often the output holds each; empty without penalties.
        self.penalized: dict[int, int] = {}
        if params.repetition_penalty != 1.0:
            self.penalized = dict.fromkeys(token_ids, 0)
        self.sample_index: int | None = None  # of the sample that the step launched last draws for it
        self.is_guessing = False  # its last token stands for one that is being drawn
        if score_from is not None:
            self.logits_cursor = max(score_from - 1, 0)
        else:
            self.logits_cursor = len(token_ids) - 1

    @property
    def num_path_tokens(self) -> int:
        """Tokens whose KV is needed. Nothing follows the last token of a scored continuation."""
        return len(self.token_ids) - 1 if self.score_from is not None else len(self.token_ids)

    @property
    def needs_many_rows(self) -> bool:
        """Whether more than its last token has no KV."""
        assert self.path is not None, self.request_id
        tail, above = self.path.tail, self.path.tail.parent
        assert above is not None, tail
        return tail.end - tail.start - tail.payload.num_computed > 1 or not is_computed(above)

    def guess(self) -> None:
        """Let the token that is being drawn take its place under a name, if one is to follow it.

        The name is ``-1 - k`` for sample ``k`` (`ramet.model_io.ModelInput`); no two requests share it.
        """
        if self.sample_index is None or self.is_guessing:
            return
        if len(self.token_ids) + 1 - self.num_prompt_tokens < self.params.max_tokens:
            self.logits_cursor = len(self.token_ids)
            self.token_ids.append(-1 - self.sample_index)
            self.is_guessing = True

    def forget_guess(self) -> None:
        """Undo `guess`."""
        assert self.is_guessing, self.request_id
        del self.token_ids[-1]
        self.is_guessing = False

    def path_tokens(self) -> Int32Array:
        """The tokens whose KV is needed, as an array."""
        output = np.asarray(self.token_ids[self.num_prompt_tokens :], dtype=np.int32)
        return np.concatenate([self._prompt, output])[: self.num_path_tokens]

    def begin(self) -> tuple[list[int], Stop | None]:
        """Take the tokens that a constraint forces before anything is sampled; see `take`."""
        return ([], None) if self.matcher is None else self._append_all(self.matcher.begin(), self.matcher)

    def take(self, token_id: int) -> tuple[list[int], Stop | None]:
        """Take a sampled token: which tokens that appends, and whether the request ends with them.

        Raises:
            InvalidRequest: a stop regex is too slow on this output, or its constraint cannot be continued.
        """
        if self.matcher is None or token_id in self.stop_checker.end_token_ids:
            return [token_id], self.append(token_id)
        return self._append_all(self.matcher.take(token_id), self.matcher)

    def _append_all(self, token_ids: list[int], matcher: GrammarMatcher) -> tuple[list[int], Stop | None]:
        end = Stop("stop") if matcher.is_terminated else None  # with the last of them
        for count, token_id in enumerate(token_ids, start=1):
            stop = self.append(token_id)
            is_complete = end is not None and count == len(token_ids)
            if stop is not None and not (is_complete and stop.finish_reason == "length"):
                return token_ids[:count], stop
        return token_ids, end

    def fill_bitmask(self, row: UInt32Array) -> None:
        """Write which tokens may be drawn next: ``[ceil(vocab_size / 32)]``, the lowest bit first."""
        if self.matcher is None:
            row.fill(0xFFFFFFFF)
            return
        self.matcher.fill_bitmask(row)
        if self.matcher.may_end:
            for token_id in self.stop_checker.end_token_ids:
                if token_id < 32 * len(row):  # a tokenizer may know more tokens than the model
                    row[token_id // 32] |= np.uint32(1 << token_id % 32)

    @property
    def banned_token_ids(self) -> frozenset[int]:
        """Tokens that may not be drawn next whatever their logits; a constraint says that in its bitmask."""
        return frozenset() if self.matcher is not None else self.stop_checker.banned_token_ids

    def append(self, token_id: int) -> Stop | None:
        """Take one more output token, sampled or forced: the only way tokens are added.

        Raises:
            InvalidRequest: a stop regex is too slow on this output.
        """
        self.token_ids.append(token_id)
        self.logits_cursor = len(self.token_ids) - 1
        if self.penalizes:
            self.penalized[token_id] = self.penalized.get(token_id, 0) + 1
        return self.stop_checker.append(token_id)
