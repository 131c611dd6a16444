"""From forced bytes to the tokens to emit for them.

Where an automaton allows one continuation only, its bytes need no model: they become tokens that are
appended as if they had been sampled. Two borders need care. On the left, the token sampled last may be the
beginning of a longer one (``"na`` before ``me"``), so it is encoded anew with what follows. On the right,
tokens are dropped from the first one on that could be another one, depending on what follows: a longer legal
token may begin there, or the tokenizer may cut it elsewhere (a space goes to the word after it). That choice
is the model's. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from string import ascii_letters, digits, punctuation

from ramet.grammar.compressed import CompressedFsm
from ramet.grammar.token_index import TokenIndex
from ramet.tokenizer.vocab import Vocab

MOST_BYTES = 256
"""Of one jump; what is forced beyond comes with the next token. Long ones must not hold up other requests."""

Encode = Callable[[str], list[int]]
"""Text that follows other tokens to token ids, no special ones among them."""


_PROBES = (ascii_letters, digits, punctuation, " ", "\n")
"""Kinds of characters that tokenizers treat alike when they cut text into words."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Tokens to append, and the state of the automaton after them. The first stand for the sampled token."""

    token_ids: tuple[int, ...]
    state: int


class Jumper:
    """Finds the jumps of one automaton over one vocabulary."""

    def __init__(self, fsm: CompressedFsm, index: TokenIndex, vocab: Vocab, encode: Encode) -> None:
        self._fsm = fsm
        self._index = index
        self._vocab = vocab
        self._encode = encode

    def find(self, sampled: int | None, state: int) -> Jump | None:
        """The tokens for ``sampled``, the token that led to ``state``, and for what is forced after it.

        ``sampled`` is ``None`` at the start of an output. The answer is ``None`` if nothing is forced, or
        nothing that is sure to stay as it is.
        """
        forced, _ = self._fsm.forced(state)
        if not forced:
            return None
        if sampled is None:
            return self._stable_tokens(b"", forced, state)
        whole = self._stable_tokens(self._vocab.bytes_of(sampled), forced, state)
        if whole is not None:
            return whole
        alone = self._stable_tokens(b"", forced, state)
        return None if alone is None else Jump((sampled, *alone.token_ids), alone.state)

    def _stable_tokens(self, before: bytes, forced: bytes, state: int) -> Jump | None:
        """Tokens for ``before``, which led to ``state``, and for what of ``forced`` is stable; if any is."""
        data = _whole_characters((before + forced)[:MOST_BYTES])
        if len(data) <= len(before):
            return None
        try:
            text = data.decode()
        except UnicodeDecodeError:  # it begins inside a character
            return None
        token_ids = self._encode(text)
        pieces = [self._vocab.bytes_of(token_id) for token_id in token_ids]
        if b"".join(pieces) != data or max(token_ids) >= self._index.vocab_size:
            return None  # a tokenizer that changes text, or knows more tokens than the model
        end = self._fsm.walk(state, data[len(before) :])
        stable = self._stable_count(text, token_ids, end)
        count = begin = 0
        for piece in pieces[:stable]:
            if self._index.crosses(self._fsm.dfa, end, data[begin:]):
                break
            count, begin = count + 1, begin + len(piece)
        if begin <= len(before):
            return None
        return Jump(tuple(token_ids[:count]), self._fsm.walk(state, data[len(before) : begin]))

    def _stable_count(self, text: str, token_ids: list[int], end: int) -> int:
        """How many tokens stay the same, whichever kind of character the automaton lets follow."""
        count = len(token_ids)
        for kind in _PROBES:
            probe = next((c for c in kind if self._fsm.walk(end, c.encode()) >= 0), None)
            if probe is not None:
                others = self._encode(text + probe)
                same = (a == b for a, b in zip(token_ids, others, strict=False))
                count = min(count, sum(1 for _ in takewhile(bool, same)))
        return count


def _whole_characters(data: bytes) -> bytes:
    """The bytes without a character that is cut off at their end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data if length <= back else data[:-back]
    return data
