"""A text engine without a model whose tokens are pieces of text, and whose "model" draws at random."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from parrot import local_backend

from ramet.config import SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.engine.local import LocalBackend
from ramet.grammar.compiler import GrammarCompiler
from ramet.runner.fake import FakeRunner
from ramet.tokenizer.tokenizer import ControlTokens, Tokenizer
from ramet.tokenizer.vocab import Vocab

WORDS = """name age city color true false null yes no left right the and of value result answer item list
http https www com error code tool search query text user Paris Rome Berlin red green blue 10 20 100 2024"""
MARKS = [
    '{"',
    '"}',
    '":',
    '": ',
    '": "',
    '",',
    '", ',
    '", "',
    '"',
    "[]",
    "]}",
    "{}",
    "\\n",
    "  ",
    "é",
    "日本",
]


def piece_vocab() -> Vocab:
    """All single bytes, a few words and marks with and without what often surrounds them, and EOS."""
    words = WORDS.split()
    pieces = {*MARKS, *words, *(f" {word}" for word in words), *(f'"{word}' for word in words)}
    pieces |= {f'{word}"' for word in words[:20]} | {word[:cut] for word in words for cut in (2, 3)}
    multi = sorted(piece.encode() for piece in pieces if len(piece.encode()) > 1)
    tokens = [*(bytes([byte]) for byte in range(256)), *multi, b""]
    texts = tuple(token.decode(errors="replace") for token in tokens[:-1])
    return Vocab(tuple(tokens), (*texts, "<eos>"), frozenset({len(tokens) - 1}))


class LongestMatch:
    """Text to the longest pieces there are, from left to right."""

    def __init__(self, vocab: Vocab) -> None:
        self._ids = {piece: index for index, piece in enumerate(vocab.token_bytes) if piece}
        self._longest = max(map(len, self._ids))

    def encode(self, text, trusted, *, continues=False):
        data, ids = text.encode(), []
        while data:
            length = next(n for n in range(min(self._longest, len(data)), 0, -1) if data[:n] in self._ids)
            ids.append(self._ids[data[:length]])
            data = data[length:]
        return ids


def piece_tokenizer() -> Tokenizer:
    vocab = piece_vocab()
    eos = frozenset({len(vocab) - 1})
    return Tokenizer(vocab, LongestMatch(vocab), ControlTokens(bos=None, eos=eos, add_bos=False))


def random_backend(
    *,
    jump_forward: bool = True,
    is_asynchronous: bool = False,
    salt: int = 0,
    num_slots: int = 4096,
    vocab_size: int | None = None,
    compiler: Callable[[Tokenizer, int], GrammarCompiler] = GrammarCompiler,
    **scheduler,
) -> LocalBackend:
    """A backend whose next token is a hash of the context."""

    def next_token(context):
        return zlib.crc32(np.array((salt, *context), dtype=np.int64).tobytes())

    tokenizer = piece_tokenizer()
    vocab_size = vocab_size or len(tokenizer.vocab)
    runner = FakeRunner(
        next_token,
        num_slots=num_slots,
        vocab_size=vocab_size,
        context_length=8192,
        is_asynchronous=is_asynchronous,
    )
    grammars = compiler(tokenizer, runner.vocab_size)
    core = EngineCore(
        runner,
        SchedulerConfig(**scheduler),
        vocab=tokenizer.vocab,
        eos_token_ids=tokenizer.eos_token_ids,
        grammars=grammars,
        enable_jump_forward=jump_forward,
    )
    return local_backend(tokenizer, core)
