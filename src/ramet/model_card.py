"""What a served model is: read by servers, command lines and clients."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A loaded model.

    Attributes:
        name: the folder, file or hub id it was loaded by.
        path: where its files lie.
        context_length: most positions a sequence may have.
        max_sequence_tokens: most tokens of prompt and output: the context, or the KV pool if that is smaller.
        vocab_size: of its logits.
        num_slots: tokens that the KV pool holds.
        pool_bytes: memory that the pool takes once all of it has been used.
        kernels: which kernels compute it, in a line for people.
    """

    name: str
    path: str
    context_length: int
    max_sequence_tokens: int
    vocab_size: int
    num_slots: int
    pool_bytes: int
    kernels: str
