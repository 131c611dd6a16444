"""The KV pool: keys and values of all slots, allocated once, and how large it should be."""

from __future__ import annotations

import numpy as np
import torch

from ramet.errors import InvalidRequest, ModelError
from ramet.models.config import ModelConfig

MEMORY_SHARE = 4  # an automatic pool takes at most one part in this many of the memory that is free
CONTEXTS_PER_POOL = 4  # and at most this many full contexts: more would rarely be used


class KVPool:
    """Keys and values of every layer by slot; satisfies `ramet.attention.base.KVStore`.

    Zero everywhere at first, so that a key no row may see is still a number.
    """

    def __init__(self, config: ModelConfig, num_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (2, num_slots, config.num_kv_heads, config.head_dim)
        self._num_slots = num_slots
        self._layers = [_zeros(shape, dtype, device) for _ in range(config.num_layers)]

    @property
    def num_slots(self) -> int:
        return self._num_slots

    def write(
        self, layer_index: int, slot_ids: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        pool = self._layers[layer_index]
        pool[0].index_copy_(0, slot_ids, keys)
        pool[1].index_copy_(0, slot_ids, values)

    def layer(self, layer_index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pool = self._layers[layer_index]
        return pool[0], pool[1]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # NOTE: NumPy asks the system for zeroed pages, which cost nothing until a slot is used; torch.zeros
    # would write all of them now.
    return torch.from_numpy(np.zeros((*shape[:-1], shape[-1] * dtype.itemsize), dtype=np.uint8)).view(dtype)


def slot_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values per slot, over all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


def choose_num_slots(
    config: ModelConfig, dtype: torch.dtype, available_bytes: int, max_kv_tokens: int | None
) -> int:
    """How many slots the pool gets.

    A given number is taken as it is, if it fits the memory. Otherwise: a quarter of the available memory,
    but not more than four full contexts.

    Raises:
        InvalidRequest: ``max_kv_tokens`` is not positive.
        ModelError: the memory does not suffice.
    """
    per_slot = slot_bytes(config, dtype)
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
