"""What a server answers: generated text and scores, in the shape that SGLang's clients know.

A logprob is ``[logprob, token id, text or null]``; so is each of the likeliest alternatives. Fields that were
not asked for are absent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from msgspec import UNSET, Struct, UnsetType

from ramet.types import Completion, FinishReason, Score, TokenLogprob, TopLogprob, Usage

T = TypeVar("T")
D = TypeVar("D")

Entry: TypeAlias = tuple[float | None, int, str | None]


class Finish(Struct, frozen=True, kw_only=True):
    """Why a generation ended: ``matched`` is the stop string, regex or token id, ``length`` its tokens."""

    type: FinishReason
    matched: str | int | UnsetType = UNSET
    length: int | UnsetType = UNSET


class MetaInfo(Struct, frozen=True, kw_only=True):
    """What is known besides the text. Before the end of a stream: the first three, and the new logprobs."""

    id: str
    finish_reason: Finish | None
    completion_tokens: int
    prompt_tokens: int | UnsetType = UNSET
    cached_tokens: int | UnsetType = UNSET
    e2e_latency: float | UnsetType = UNSET  # seconds, on the server
    input_token_logprobs: Sequence[Entry] | UnsetType = UNSET
    input_top_logprobs: Sequence[Sequence[Entry] | None] | UnsetType = UNSET
    output_token_logprobs: Sequence[Entry] | UnsetType = UNSET
    output_top_logprobs: Sequence[Sequence[Entry] | None] | UnsetType = UNSET


class Output(Struct, frozen=True, kw_only=True):
    """A completion, or an event of a stream. ``index`` tells the completions of one request apart."""

    text: str
    output_ids: Sequence[int]
    meta_info: MetaInfo
    index: int = 0


class ScoreOutput(Struct, frozen=True, kw_only=True):
    """How likely a continuation is. The sum leaves a first token out that has nothing before it."""

    text: str
    token_ids: Sequence[int]
    tokens: Sequence[str]
    logprobs: Sequence[float | None]
    logprob_sum: float
    prompt_tokens: int
    cached_tokens: int
    top_logprobs: Sequence[Sequence[Entry]] | UnsetType = UNSET


class Scores(Struct, frozen=True, kw_only=True):
    """The answer to a request for scores, in the order of its continuations."""

    id: str
    scores: Sequence[ScoreOutput]
    e2e_latency: float


# ----------------------------------------------------------------------------------------- what servers write


def finish_of(completion: Completion) -> Finish:
    """Why a completion ended."""
    if completion.finish_reason == "length":
        return Finish(type="length", length=len(completion.token_ids))
    stop_reason = completion.stop_reason
    return Finish(type=completion.finish_reason, matched=UNSET if stop_reason is None else stop_reason)


def entries(logprobs: Sequence[TokenLogprob | TopLogprob], with_text: bool) -> list[Entry]:
    """Logprobs of tokens, without the alternatives."""
    return [(each.logprob, each.token_id, each.token if with_text else None) for each in logprobs]


def top_entries(logprobs: Sequence[TokenLogprob], with_text: bool) -> list[list[Entry] | None]:
    """The alternatives to each token; ``None`` if none are known."""
    return [entries(each.top, with_text) or None for each in logprobs]


# ------------------------------------------------------------------------------------------ what clients read


def completion_of(outputs: Sequence[Output]) -> Completion:
    """The completion that one output is, or several events of a stream together: the last one ends it."""
    meta = outputs[-1].meta_info
    finish = meta.finish_reason
    assert finish is not None, "a completion has ended"
    logprobs = [each for each in map(logprobs_of, outputs) if each is not None]
    token_ids = tuple(token_id for output in outputs for token_id in output.output_ids)
    return Completion(
        text="".join(output.text for output in outputs),
        token_ids=token_ids,
        finish_reason=finish.type,
        usage=Usage(_given(meta.prompt_tokens, 0), _given(meta.cached_tokens, 0), len(token_ids)),
        stop_reason=None if isinstance(finish.matched, UnsetType) else finish.matched,
        logprobs=tuple(entry for each in logprobs for entry in each) if logprobs else None,
    )


def logprobs_of(output: Output) -> tuple[TokenLogprob, ...] | None:
    """The logprobs that an output has."""
    tokens, tops = output.meta_info.output_token_logprobs, output.meta_info.output_top_logprobs
    if isinstance(tokens, UnsetType):
        return None
    alternatives = _given(tops, [None] * len(tokens))
    return tuple(
        TokenLogprob(token_id, text or "", _logprob(logprob), tuple(map(_top_logprob, top or ())))
        for (logprob, token_id, text), top in zip(tokens, alternatives, strict=True)
    )


def score_of(output: ScoreOutput) -> Score:
    """The score that was sent."""
    top = output.top_logprobs
    return Score(
        output.text,
        tuple(output.token_ids),
        tuple(output.logprobs),
        Usage(output.prompt_tokens, output.cached_tokens, 0),
        None if isinstance(top, UnsetType) else tuple(tuple(map(_top_logprob, each)) for each in top),
    )


def _given(value: T | UnsetType, otherwise: D) -> T | D:
    return otherwise if isinstance(value, UnsetType) else value


def _logprob(sent: float | None) -> float:
    return -math.inf if sent is None else sent  # JSON has no infinity: what cannot happen is sent as null


def _top_logprob(entry: Entry) -> TopLogprob:
    logprob, token_id, text = entry
    return TopLogprob(token_id, text or "", _logprob(logprob))
