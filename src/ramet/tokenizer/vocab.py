"""What each token id stands for: its bytes, and its text for display.

Invariant: the text of a token sequence is the concatenation of ``token_bytes``, read as UTF-8. Special
tokens have no bytes. Knows nothing of merges or templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain
from typing import Literal, TypeAlias

Alphabet: TypeAlias = Literal["byte_level", "sentencepiece"]

SPACE_MARK = "\u2581"  # SentencePiece writes a space like this

END_OF_TURN = frozenset(
    {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "<|end_of_turn|>",
    }
)
"""Special tokens that end a text or a turn in some family of models, whether or not its files say so."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenKind(Enum):
    """How the text of a vocabulary entry is to be read."""

    NORMAL = auto()  # written in the alphabet of the vocabulary
    LITERAL = auto()  # added by the model's authors: stands for exactly its text
    BYTE = auto()  # "<0xAB>" stands for one byte
    SPECIAL = auto()  # controls the model and is no text


@dataclass(frozen=True, slots=True)
class Vocab:
    """The vocabulary by token id.

    Attributes:
        token_bytes: the bytes each token contributes to the text; ``b""`` for special tokens.
        texts: what to show for each token: special tokens have one too.
        special_ids: tokens that are no text.
        longest_text: bytes of the longest token, special ones as they are written.
    """

    token_bytes: tuple[bytes, ...]
    texts: tuple[str, ...]
    special_ids: frozenset[int]

    longest_text: int = field(init=False)

    def __post_init__(self) -> None:
        special = (len(self.text(token_id).encode()) for token_id in self.special_ids)
        longest = max(chain(map(len, self.token_bytes), special), default=0)
        object.__setattr__(self, "longest_text", longest)

    def __len__(self) -> int:
        return len(self.token_bytes)

    def is_special(self, token_id: int) -> bool:
        """Whether the token is no text. Ids past the vocabulary (padding of the embedding) are not text."""
        return token_id in self.special_ids or not 0 <= token_id < len(self.token_bytes)

    def bytes_of(self, token_id: int) -> bytes:
        """The token's bytes; ``b""`` past the vocabulary: models may have more rows than tokens."""
        return self.token_bytes[token_id] if 0 <= token_id < len(self.token_bytes) else b""

    def text(self, token_id: int) -> str:
        """The token for display. A piece of a character shows as U+FFFD."""
        return self.texts[token_id] if 0 <= token_id < len(self.texts) else ""

    def display(self, token_ids: Iterable[int]) -> str:
        """Tokens as text, special ones written out."""
        raw = [
            self.text(token_id).encode() if self.is_special(token_id) else self.bytes_of(token_id)
            for token_id in token_ids
        ]
        return b"".join(raw).decode(errors="replace")


def build_vocab(tokens: Sequence[str], kinds: Sequence[TokenKind], alphabet: Alphabet) -> Vocab:
    """A vocabulary from the entries of a model file, in order of their ids."""
    token_bytes: list[bytes] = []
    texts: list[str] = []
    for token, kind in zip(tokens, kinds, strict=True):
        if kind is TokenKind.SPECIAL:
            token_bytes.append(b"")
            texts.append(token)
            continue
        if kind is TokenKind.LITERAL:
            raw = token.encode()
        elif kind is TokenKind.BYTE and (match := _BYTE_TOKEN.fullmatch(token)):
            raw = bytes([int(match[1], 16)])
        elif alphabet == "byte_level":
            raw = _byte_level_bytes(token)
        else:
            raw = token.replace(SPACE_MARK, " ").encode()
        token_bytes.append(raw)
        texts.append(raw.decode(errors="replace"))
    special = frozenset(index for index, kind in enumerate(kinds) if kind is TokenKind.SPECIAL)
    return Vocab(tuple(token_bytes), tuple(texts), special)


def is_byte_token(token: str) -> bool:
    """Whether the text has the form ``<0xAB>``."""
    return _BYTE_TOKEN.fullmatch(token) is not None


def byte_alphabet() -> dict[int, str]:
    """The letter GPT-2's byte-level BPE writes for each byte.

    Printable Latin-1 bytes stand for themselves, the other 68 for the letters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    shifted = {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    return {byte: shifted.get(byte, chr(byte)) for byte in range(256)}


# Translation of a token to a string whose Latin-1 encoding is its bytes.
_TO_LATIN1 = {ord(letter): byte for byte, letter in byte_alphabet().items()}
_LETTERS = frozenset(byte_alphabet().values())


def _byte_level_bytes(token: str) -> bytes:
    if _LETTERS.issuperset(token):
        return token.translate(_TO_LATIN1).encode("latin-1")
    # Some vocabularies hold a few entries outside the alphabet; they stand for themselves.
    return token.encode()
