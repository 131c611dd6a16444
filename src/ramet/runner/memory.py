"""How many slots a KV pool gets: what a slot takes, and what the memory has room for.

Must not know: torch, or how a pool is laid out.
"""

from __future__ import annotations

from ramet.errors import InvalidRequest, ModelError
from ramet.models.config import ModelConfig

MEMORY_SHARE = 4  # an automatic pool takes at most one part in this many of the memory that is free
CONTEXTS_PER_POOL = 4  # and at most this many full contexts: more would rarely be used


def slot_bytes(config: ModelConfig, element_bytes: int) -> int:
    """Bytes of keys and values per slot, over all layers, at ``element_bytes`` a number."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * element_bytes


def choose_num_slots(
    config: ModelConfig, element_bytes: int, available_bytes: int, max_kv_tokens: int | None
) -> int:
    """How many slots the pool gets.

    A given number is taken as it is, if it fits the memory. Otherwise: a quarter of the available memory,
    but not more than four full contexts.

    Raises:
        InvalidRequest: ``max_kv_tokens`` is not positive.
        ModelError: the memory does not suffice.
    """
    per_slot = slot_bytes(config, element_bytes)
    if max_kv_tokens is None:
        num_slots = min(
            available_bytes // MEMORY_SHARE // per_slot, CONTEXTS_PER_POOL * config.context_length
        )
        if num_slots < 1:
            raise ModelError(
                f"no memory for the KV pool: {available_bytes:,} bytes are free, a slot takes {per_slot:,}"
            )
        return num_slots
    if max_kv_tokens < 1:
        raise InvalidRequest(f"max_kv_tokens must be at least 1, got {max_kv_tokens}")
    if max_kv_tokens * per_slot > available_bytes:
        raise ModelError(
            f"max_kv_tokens={max_kv_tokens:,} needs {max_kv_tokens * per_slot:,} bytes, but only "
            f"{available_bytes:,} are free (at most {available_bytes // per_slot:,} slots fit)"
        )
    return max_kv_tokens
