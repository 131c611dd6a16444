"""When a request's output ends: EOS, stop tokens, stop strings and regexes, length.

Stop strings and stop regexes are one mechanism: patterns searched for in the decoded output. Partial matches
at its end say how much text a stream must hold back, because a stop may still claim it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection
from dataclasses import dataclass

import regex

from ramet.errors import InvalidRequest
from ramet.sampling_params import SamplingParams
from ramet.tokenizer.detokenizer import Detokenizer
from ramet.tokenizer.vocab import Vocab
from ramet.types import FinishReason

MATCH_TIMEOUT_SECONDS = 0.1
MATCH_SECONDS_PER_TOKEN = 0.002
"""What matching regexes may take over a request, besides one timeout: all requests wait meanwhile."""
MAX_REPEATS = 10_000

_LEAST_REPEATS = re.compile(r"\{\s*([0-9]+)")


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a request ended. ``text_limit`` is the length its text is cut to, if a pattern ended it;
    ``by_token`` says that a token did that is no part of the text."""

    finish_reason: FinishReason
    stop_reason: str | int | None = None
    text_limit: int | None = None
    by_token: bool = False


def compile_stop_patterns(params: SamplingParams) -> list[tuple[str, regex.Pattern[str]]]:
    """The stop strings and regexes of a request as (what the user wrote, pattern).

    Raises:
        InvalidRequest: a stop regex does not compile, or matches the empty string.
    """
    patterns = [(text, regex.compile(regex.escape(text))) for text in params.stop]
    for source in params.stop_regex:
        # What is repeated is written out when it is compiled: a few letters could fill the memory
        if math.prod(max(int(count), 1) for count in _LEAST_REPEATS.findall(source)) > MAX_REPEATS:
            raise InvalidRequest(f"stop_regex {source!r} asks for more than {MAX_REPEATS} repeats")
        try:
            pattern = regex.compile(source)
        except (regex.error, RecursionError) as error:
            raise InvalidRequest(f"stop_regex {source!r} does not compile: {error}") from error
        if _search(source, pattern, "", 0) is not None:
            raise InvalidRequest(f"stop_regex {source!r} matches the empty string")
        patterns.append((source, pattern))
    return patterns


class StopChecker:
    """Watches the output of one request, token by token."""

    def __init__(self, params: SamplingParams, eos_token_ids: Collection[int], vocab: Vocab | None) -> None:
        self._params = params
        self._eos = frozenset() if params.ignore_eos else frozenset(eos_token_ids)
        self._end = self._eos | frozenset(params.stop_token_ids)
        self._patterns = compile_stop_patterns(params)
        self._num_tokens = 0
        self._seconds = 0.0  # spent on matching
        self._text = ""
        self._num_dropped = 0  # characters of the output before ``_text``
        self._search_from = 0  # text before this can no longer be part of a match
        self._detokenizer: Detokenizer | None = None
        if self._patterns:
            if vocab is None:
                raise InvalidRequest("stop strings need a tokenizer")
            self._detokenizer = Detokenizer(vocab)

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that may end the request next: EOS, unless it is ignored, and ``stop_token_ids``; none
        before ``min_tokens``."""
        return self._end - self.banned_token_ids

    @property
    def banned_token_ids(self) -> frozenset[int]:
        """Tokens that may not end the output next, because ``min_tokens`` is not reached."""
        if self._num_tokens >= self._params.min_tokens:
            return frozenset()
        return self._end

    @property
    def releasable_text(self) -> int | None:
        """How many characters of the output no stop can claim any more; ``None`` means all of them."""
        return self._num_dropped + self._search_from if self._patterns else None

    def append(self, token_id: int) -> Stop | None:
        """Take the next output token; says whether it ends the request.

        Raises:
            InvalidRequest: a stop regex takes too long or too much memory on this output.
        """
        self._num_tokens += 1
        if token_id in self._eos:
            return Stop("stop", by_token=True)
        # Before min_tokens none is drawn to end the text, but a constraint may ask for one as text
        if token_id in self._end and self._num_tokens > self._params.min_tokens:
            return Stop("stop", token_id, by_token=True)
        if self._detokenizer is not None:
            self._text += self._detokenizer.append(token_id)
            stop = self._search()
            if stop is not None:
                return stop
        if self._num_tokens >= self._params.max_tokens:
            return Stop("length")
        return None

    def _search(self) -> Stop | None:
        if self._num_tokens < self._params.min_tokens:
            self._release(len(self._text))
            return None
        held_from = len(self._text)
        found: tuple[int, str] | None = None
        for source, pattern in self._patterns:
            match = self._match(source, pattern)
            if match is None:
                match = self._match(source, pattern, partial=True)
                if match is not None:
                    held_from = min(held_from, match.start())
            elif found is None or match.start() < found[0]:
                found = (match.start(), source)
        if found is not None:
            return Stop("stop", found[1], self._num_dropped + found[0])
        self._release(held_from)
        return None

    def _match(
        self, source: str, pattern: regex.Pattern[str], *, partial: bool = False
    ) -> regex.Match[str] | None:
        if not self._params.stop_regex:  # strings are quickly found
            return _search(source, pattern, self._text, self._search_from, partial=partial)
        began = time.thread_time()
        match = _search(source, pattern, self._text, self._search_from, partial=partial)
        self._seconds += time.thread_time() - began
        allowed = MATCH_TIMEOUT_SECONDS + MATCH_SECONDS_PER_TOKEN * self._num_tokens
        if self._seconds > allowed:
            raise InvalidRequest(
                f"stop_regex {source!r}, or all so far, took more than {allowed:g} s to match"
            )
        return match

    def _release(self, end: int) -> None:
        """No stop can claim the text before ``end`` any more; only regexes may look back at it."""
        if self._params.stop_regex:
            self._search_from = end
        else:
            self._num_dropped += end
            self._text = self._text[end:]


def _search(
    source: str, pattern: regex.Pattern[str], text: str, start: int, *, partial: bool = False
) -> regex.Match[str] | None:
    try:
        return pattern.search(text, start, partial=partial, timeout=MATCH_TIMEOUT_SECONDS)
    except (TimeoutError, MemoryError) as error:  # endless backtracking, endless recursion
        raise InvalidRequest(
            f"stop_regex {source!r} took more than {MATCH_TIMEOUT_SECONDS} s or too much memory to match"
        ) from error
