"""Cosines and sines of all positions, for kernels that look them up. NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ramet.models.config import ModelConfig
from ramet.models.frequencies import rotary_frequencies

BLOCK_POSITIONS = 8192  # bounds the float64 temporaries while a table is built


def rotary_table(config: ModelConfig) -> NDArray[np.float32]:
    """``[context_length, 2, head_dim / 2]``: cosines, then sines; computed in float64 (arXiv 2104.09864).

    Raises:
        UnsupportedModel: the rope scaling does not fit the model.
    """
    frequencies, magnitude = rotary_frequencies(config)
    table = np.empty((config.context_length, 2, len(frequencies)), dtype=np.float32)
    for begin in range(0, config.context_length, BLOCK_POSITIONS):
        end = min(begin + BLOCK_POSITIONS, config.context_length)
        angles = np.arange(begin, end, dtype=np.float64)[:, np.newaxis] * frequencies
        np.multiply(np.cos(angles), magnitude, out=table[begin:end, 0], casting="same_kind")
        np.multiply(np.sin(angles), magnitude, out=table[begin:end, 1], casting="same_kind")
    return table
