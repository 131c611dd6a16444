"""The KV pool of the torch runner: keys and values of all slots, allocated once."""

from __future__ import annotations

import numpy as np
import torch

from ramet.models.config import ModelConfig


class KVPool:
    """Keys and values of every layer by slot; satisfies `ramet.attention.base.KVStore`.

    Zero everywhere at first, so that a key no row may see is still a number.
    """

    def __init__(self, config: ModelConfig, num_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (2, num_slots + 1, config.num_kv_heads, config.head_dim)
        self._num_slots = num_slots
        self._layers = [_zeros(shape, dtype, device) for _ in range(config.num_layers)]

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def scratch_slot(self) -> int:
        """A slot behind all others, for the keys and values of rows that only fill up a batch."""
        return self._num_slots

    @property
    def num_bytes(self) -> int:
        return sum(pool[:, : self._num_slots].nbytes for pool in self._layers)

    def layer(self, layer_index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pool = self._layers[layer_index]
        return pool[0], pool[1]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    as_bytes = (*shape[:-1], shape[-1] * dtype.itemsize)  # NumPy has no bfloat16, and torch little for float8
    if device.type != "cpu":
        return torch.zeros(as_bytes, dtype=torch.uint8, device=device).view(dtype)
    # NOTE: NumPy asks the system for zeroed pages, which cost nothing until a slot is used; torch.zeros
    # would write all of them now.
    return torch.from_numpy(np.zeros(as_bytes, dtype=np.uint8)).view(dtype)
