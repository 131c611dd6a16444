"""A text engine without a model: bytes are tokens, and the "model" recites a reply after each ``>``."""

from __future__ import annotations

from ramet.config import SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.engine.core_thread import CoreThread
from ramet.engine.local import LocalBackend
from ramet.model_card import ModelCard
from ramet.runner.fake import FakeRunner
from ramet.tokenizer.tokenizer import ControlTokens, Tokenizer
from ramet.tokenizer.vocab import TokenKind, build_vocab, byte_alphabet

EOS = 256


class ByteEncoder:
    """Each byte of the text is a token."""

    def encode(self, text, trusted, *, continues=False):
        return list(text.encode())


def byte_tokenizer() -> Tokenizer:
    letters = byte_alphabet()
    vocab = build_vocab(
        [*(letters[byte] for byte in range(256)), "<eos>"],
        [*([TokenKind.NORMAL] * 256), TokenKind.SPECIAL],
        "byte_level",
    )
    return Tokenizer(vocab, ByteEncoder(), ControlTokens(bos=None, eos=frozenset({EOS}), add_bos=False))


def local_backend(tokenizer: Tokenizer, core: EngineCore) -> LocalBackend:
    """A backend over a core in a thread."""
    card = ModelCard(
        name="parrot",
        path="/nowhere",
        context_length=8192,
        max_sequence_tokens=core.max_sequence_tokens,
        vocab_size=len(tokenizer.vocab),
        num_slots=core.cache.num_slots,
        pool_bytes=16 * core.cache.num_slots,
        kernels="none",
    )
    return LocalBackend(tokenizer, CoreThread(core), card)


def parrot(reply: str, *, num_slots: int = 4096, on_step=None, **scheduler) -> LocalBackend:
    """A backend whose model continues every prompt that ends in ``>`` with ``reply`` and EOS."""
    data = reply.encode()

    def next_token(context):
        if on_step is not None:
            on_step(context)
        said = len(context) - 1 - max((i for i, token in enumerate(context) if token == ord(">")), default=0)
        return data[said] if said < len(data) else EOS

    runner = FakeRunner(next_token=next_token, num_slots=num_slots, vocab_size=257, context_length=8192)
    tokenizer = byte_tokenizer()
    core = EngineCore(
        runner,
        SchedulerConfig(**scheduler),
        vocab=tokenizer.vocab,
        eos_token_ids=tokenizer.eos_token_ids,
    )
    return local_backend(tokenizer, core)
