"""The vocabularies that masks are made for: the model's own, and a larger one built from its tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import tokenizers
from tokenizers import models, pre_tokenizers

from ramet.tokenizer.text_encoder import TextEncoder
from ramet.tokenizer.tokenizer import ControlTokens, Tokenizer
from ramet.tokenizer.vocab import Vocab, byte_alphabet

_LONGEST = 24  # bytes of a joined token


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """A tokenizer, and what to call it."""

    name: str
    tokenizer: Tokenizer

    @property
    def vocab(self) -> Vocab:
        return self.tokenizer.vocab

    @property
    def eos(self) -> int:
        """One of the tokens that end a text."""
        return max(self.tokenizer.eos_token_ids)

    def characters(self, text: str) -> list[int]:
        """A text in the tokens of its characters, one after the other: every state between is visited."""
        return [token_id for letter in text for token_id in self.tokenizer.encode_continuation(letter)]


def enlarged(tokenizer: Tokenizer, num_tokens: int) -> Vocabulary:
    """The tokens of a byte-level vocabulary, and two or three of them joined at random; always the same.

    Joined tokens share fewer beginnings than those of a trained vocabulary, so masks take longer than there.
    Its tokenizer writes single bytes: masks do not depend on how text is cut.
    """
    vocab = tokenizer.vocab
    token_bytes = [*vocab.token_bytes]
    joined = _joined([data for data in token_bytes if data], set(token_bytes))
    token_bytes += [next(joined) for _ in range(num_tokens - len(token_bytes))]
    texts = tuple(data.decode(errors="replace") for data in token_bytes[len(vocab) :])
    larger = Vocab(tuple(token_bytes), vocab.texts + texts, vocab.special_ids)
    control = ControlTokens(tokenizer.bos_token_id, tokenizer.eos_token_ids, tokenizer.add_bos)
    return Vocabulary(f"{num_tokens // 1000}k tokens", Tokenizer(larger, _byte_encoder(vocab), control))


def _joined(pieces: list[bytes], known: set[bytes]) -> Iterator[bytes]:
    rng = random.Random(0)
    while True:
        data = b"".join(rng.choices(pieces, k=rng.choice((2, 2, 3))))
        if data not in known and len(data) <= _LONGEST:
            known.add(data)
            yield data


def _byte_encoder(vocab: Vocab) -> TextEncoder:
    id_of = {data: token_id for token_id, data in enumerate(vocab.token_bytes) if len(data) == 1}
    letters = {
        letter: id_of[bytes([byte])] for byte, letter in byte_alphabet().items() if bytes([byte]) in id_of
    }
    core = tokenizers.Tokenizer(models.BPE(letters, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return TextEncoder(core, [])
