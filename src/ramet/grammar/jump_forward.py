"""From forced bytes to the tokens to emit for them.

Where an automaton allows one continuation only, its bytes need no model: they become tokens that are
appended as if they had been sampled. Two borders need care. On the left, the token sampled last may be the
beginning of a longer one (``"na`` before ``me"``), so it is encoded anew with what follows. On the right, the
last tokens are dropped as long as the vocabulary has a legal token that begins where they begin and goes on
past the end: that choice is the model's. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ramet.grammar.compressed import CompressedFsm
from ramet.grammar.token_index import TokenIndex
from ramet.tokenizer.vocab import Vocab

Encode = Callable[[str], list[int]]
"""Text that follows other tokens to token ids, no special ones among them."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Tokens to append, and the state of the automaton after them. The first stand for the sampled token."""

    token_ids: tuple[int, ...]
    state: int


def find_jump(
    fsm: CompressedFsm, index: TokenIndex, vocab: Vocab, encode: Encode, sampled: int | None, state: int
) -> Jump | None:
    """The tokens for ``sampled``, the token that led to ``state``, and for what is forced after it.

    ``sampled`` is ``None`` at the start of an output. The answer is ``None`` if nothing is forced, or nothing
    that is sure to stay as it is.
    """
    forced, _ = fsm.forced(state)
    if not forced:
        return None
    if sampled is None:
        return _stable_tokens(fsm, index, vocab, encode, b"", forced, state)
    before = vocab.bytes_of(sampled)
    whole = _stable_tokens(fsm, index, vocab, encode, before, forced, state)
    if whole is not None:
        return whole
    alone = _stable_tokens(fsm, index, vocab, encode, b"", forced, state)
    return None if alone is None else Jump((sampled, *alone.token_ids), alone.state)


def _stable_tokens(
    fsm: CompressedFsm,
    index: TokenIndex,
    vocab: Vocab,
    encode: Encode,
    before: bytes,
    forced: bytes,
    state: int,
) -> Jump | None:
    """Tokens for ``before``, which led to ``state``, and for what of ``forced`` is stable; if any is."""
    data = _whole_characters(before + forced)
    if len(data) <= len(before):
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:  # it begins inside a character
        return None
    token_ids = encode(text)
    pieces = [vocab.bytes_of(token_id) for token_id in token_ids]
    if b"".join(pieces) != data:  # a tokenizer that changes text
        return None
    end = fsm.walk(state, data[len(before) :])
    count = begin = 0
    for piece in pieces:
        if index.crosses(fsm.dfa, end, data[begin:]):
            break
        count, begin = count + 1, begin + len(piece)
    if begin <= len(before):
        return None
    return Jump(tuple(token_ids[:count]), fsm.walk(state, data[len(before) : begin]))


def _whole_characters(data: bytes) -> bytes:
    """The bytes without a character that is cut off at their end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data if length <= back else data[:-back]
    return data
