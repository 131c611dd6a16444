"""Text to token ids: added tokens are cut out here, the text between them goes to the merge loop.

The `tokenizers.Tokenizer` behind this has no added tokens, so text can only become a special token where
this module says so: inside *trusted* spans. Knows nothing of prompts, roles or BOS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import tokenizers

from ramet.errors import InvalidRequest

PrefixScheme: TypeAlias = Literal["never", "first", "always"]
Span: TypeAlias = tuple[int, int]

LONG_PIECE = 16_384
"""Characters that take milliseconds."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token matched as a whole before any merging.

    Special ones are matched in trusted text only, others (added words of the vocabulary) everywhere.
    ``lstrip`` and ``rstrip`` swallow white space beside the token; ``single_word`` matches no part of a word.
    """

    token_id: int
    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class TextEncoder:
    """Encodes runs of text.

    Args:
        core: splits and merges text, without added tokens and without a dummy prefix.
        added_tokens: the tokens to cut out.
        prefixed_core: the same with SentencePiece's dummy prefix (a space before the text).
        prefix: where the dummy prefix goes: never, at the start of all text, or at the start and after
            each added token.
    """

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        added_tokens: Sequence[AddedToken],
        *,
        prefixed_core: tokenizers.Tokenizer | None = None,
        prefix: PrefixScheme = "never",
    ) -> None:
        self._core = core
        self._prefixed_core = prefixed_core or core
        self._prefix = prefix
        self._by_text = {token.text: token for token in added_tokens if token.text}
        self._any_token = _alternation([token.text for token in self._by_text.values()])
        self._word_token = _alternation([t.text for t in self._by_text.values() if not t.special])

    def encode(self, text: str, trusted: Sequence[Span], *, continues: bool = False) -> list[int]:
        """The token ids of a run of text.

        Args:
            text: the run.
            trusted: spans of it, in order, in which special tokens are recognised.
            continues: the run follows other tokens, so it gets no prefix at its start.

        Raises:
            InvalidRequest: the text holds half a surrogate pair, so it is no Unicode text.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"text is not valid Unicode: character {error.start} is {text[error.start]!r}"
            ) from error
        token_ids: list[int] = []
        prefixed = self._prefix != "never" and not continues
        for piece in self._split(text, trusted):
            if isinstance(piece, AddedToken):
                token_ids.append(piece.token_id)
                prefixed = self._prefix == "always"
            else:
                core = self._prefixed_core if prefixed else self._core
                token_ids += _merged(core, piece)
                prefixed = False
        return token_ids

    def _split(self, text: str, trusted: Sequence[Span]) -> Iterator[str | AddedToken]:
        matches: list[re.Match[str]] = []
        if self._word_token is not None:
            matches += self._word_token.finditer(text)
        if self._any_token is not None:
            for begin, end in trusted:
                matches += self._any_token.finditer(text, begin, end)
        # Leftmost first, then longest; what overlaps an earlier match is dropped.
        matches.sort(key=lambda match: (match.start(), -match.end()))
        position = 0
        for match in matches:
            begin, end = match.span()
            token = self._by_text[match[0]]
            if begin < position or (token.single_word and _inside_word(text, begin, end)):
                continue
            if token.lstrip:
                begin = position + len(text[position:begin].rstrip())
            if token.rstrip:
                while text[end : end + 1].isspace():
                    end += 1
            if begin > position:
                yield text[position:begin]
            yield token
            position = end
        if position < len(text):
            yield text[position:]


def _merged(core: tokenizers.Tokenizer, text: str) -> list[int]:
    if len(text) <= LONG_PIECE:
        return core.encode(text, add_special_tokens=False).ids
    # A batch lets other threads run meanwhile. Not for all: it starts threads, which forks would lose.
    return core.encode_batch_fast([text], add_special_tokens=False)[0].ids


def _alternation(texts: Sequence[str]) -> re.Pattern[str] | None:
    """Matches any of the texts, the longest where several fit."""
    if not texts:
        return None
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)))


def _inside_word(text: str, begin: int, end: int) -> bool:
    before, after = text[begin - 1 : begin], text[end : end + 1]
    return any(letter.isalnum() or letter == "_" for letter in (before, after) if letter)
