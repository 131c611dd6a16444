"""Token ids to text, piece by piece: never half a character.

Invariant: the pieces, joined and followed by ``flush()``, are ``decode`` of all ids.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from ramet.tokenizer.vocab import Vocab


def decode(vocab: Vocab, token_ids: Iterable[int]) -> str:
    """The text of the tokens. Special tokens are left out; invalid UTF-8 becomes U+FFFD."""
    return b"".join(map(vocab.bytes_of, token_ids)).decode(errors="replace")


class Detokenizer:
    """The text of one sequence of tokens as it grows."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def append(self, token_id: int) -> str:
        """The text that this token completes; an unfinished character is kept back."""
        return self._decoder.decode(self._vocab.bytes_of(token_id))

    def extend(self, token_ids: Iterable[int]) -> str:
        """The text that several tokens complete."""
        return self._decoder.decode(b"".join(map(self._vocab.bytes_of, token_ids)))

    @property
    def has_partial_character(self) -> bool:
        """Whether bytes of an unfinished character are kept back."""
        return bool(self._decoder.getstate()[0])

    def flush(self) -> str:
        """What is kept back, as U+FFFD, at the end of the sequence; the next one may begin."""
        return self._decoder.decode(b"", final=True)
