"""The rules by which `select` picks one of several scored choices.

Lives here: the three published rules. Each is a function of logprobs alone, so it is tested on made
numbers. It must not know backends or programs. Ties go to the choice that was written first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ramet.types import Score


@dataclass(frozen=True, slots=True)
class Decision:
    """The index of the choice taken, and what the rule adds to the variable's meta information."""

    index: int
    meta: dict[str, Any] = field(default_factory=dict)


class ChoicesMethod(Protocol):
    """A rule. One that ``needs_unconditional`` is also given the choices' scores without the prompt."""

    @property
    def needs_unconditional(self) -> bool: ...

    def decide(self, scores: Sequence[Score], unconditional: Sequence[Score] | None) -> Decision:
        """Pick among ``scores`` (at least one, each of at least one token)."""
        ...


def mean_logprob(logprobs: Sequence[float | None]) -> float:
    """The mean logprob of a choice's tokens. A token with nothing before it (``None``) counts as 0."""
    return sum(logprob or 0.0 for logprob in logprobs) / max(len(logprobs), 1)


def _first_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda index: values[index])


@dataclass(frozen=True, slots=True)
class TokenLengthNormalized:
    """The choice with the largest mean logprob per token: long choices are not punished for length."""

    needs_unconditional: bool = field(default=False, init=False)

    def decide(self, scores: Sequence[Score], unconditional: Sequence[Score] | None) -> Decision:
        return Decision(_first_largest([mean_logprob(score.logprobs) for score in scores]))


@dataclass(frozen=True, slots=True)
class GreedyTokenSelection:
    """Token by token, keep the choices whose token is likeliest, until one is left.

    This is the path greedy decoding would take through the choices. A choice that has run out of tokens is
    continued with its own mean logprob, so that it can still be compared.
    """

    needs_unconditional: bool = field(default=False, init=False)

    def decide(self, scores: Sequence[Score], unconditional: Sequence[Score] | None) -> Decision:
        width = max(len(score.logprobs) for score in scores)
        matrix = []
        for score in scores:
            row = [logprob or 0.0 for logprob in score.logprobs]
            matrix.append(row + [mean_logprob(score.logprobs)] * (width - len(row)))
        remaining = list(range(len(scores)))
        for column in range(width):
            best = max(matrix[index][column] for index in remaining)
            remaining = [index for index in remaining if matrix[index][column] == best]
            if len(remaining) == 1:
                break
        return Decision(remaining[0], {"greedy_logprob_matrix": matrix})


@dataclass(frozen=True, slots=True)
class UnconditionalLikelihoodNormalized:
    """The choice whose mean logprob the prompt raises most over that of the choice on its own.

    Removes the advantage of phrases that are likely anywhere.
    """

    needs_unconditional: bool = field(default=True, init=False)

    def decide(self, scores: Sequence[Score], unconditional: Sequence[Score] | None) -> Decision:
        assert unconditional is not None, "the caller must score the choices without the prompt as well"
        prior = [mean_logprob(score.logprobs) for score in unconditional]
        gains = [mean_logprob(score.logprobs) - alone for score, alone in zip(scores, prior, strict=True)]
        return Decision(
            _first_largest(gains),
            {
                "unconditional_token_logprobs": [_logprob_entries(score) for score in unconditional],
                "normalized_unconditional_prompt_logprobs": prior,
            },
        )


token_length_normalized = TokenLengthNormalized()
greedy_token_selection = GreedyTokenSelection()
unconditional_likelihood_normalized = UnconditionalLikelihoodNormalized()


def select_meta(choices: Sequence[str], scores: Sequence[Score], decision: Decision) -> dict[str, Any]:
    """What ``get_meta_info`` says of a select.

    ``choices``; per choice: ``normalized_prompt_logprobs`` (mean logprob), ``input_token_logprobs``
    (``(logprob, token id, None)`` per token, as published) and ``token_ids``; ``prompt_tokens`` and
    ``cached_tokens`` of all scored requests together; and what the rule adds.
    """
    return {
        "choices": list(choices),
        "normalized_prompt_logprobs": [mean_logprob(score.logprobs) for score in scores],
        "input_token_logprobs": [_logprob_entries(score) for score in scores],
        "token_ids": [list(score.token_ids) for score in scores],
        "prompt_tokens": sum(score.usage.prompt_tokens for score in scores),
        "cached_tokens": sum(score.usage.cached_tokens for score in scores),
        **decision.meta,
    }


def _logprob_entries(score: Score) -> list[tuple[float | None, int, None]]:
    pairs = zip(score.logprobs, score.token_ids, strict=True)
    return [(logprob, token_id, None) for logprob, token_id in pairs]
