"""Stored tensors as torch tensors, for the models that compute with torch."""

from __future__ import annotations

import torch

from ramet.models.stored import StoredTensor, as_float32


def tensor(stored: StoredTensor) -> torch.Tensor:
    """A new CPU tensor: quantized ones as float32; float32, float16 and bfloat16 as they are stored."""
    # Copies, since torch takes neither read-only nor unaligned memory
    match stored.type:
        case "F16":
            values = torch.from_numpy(stored.data.view("<f2").copy())
        case "BF16":  # a type NumPy lacks
            values = torch.from_numpy(stored.data.view("<i2").copy()).view(torch.bfloat16)
        case _:
            values = torch.from_numpy(as_float32(stored))
    return values.reshape(stored.shape)
