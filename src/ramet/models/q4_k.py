"""Q4_K blocks as Q4_1 blocks: the same 4-bit numbers, with scales and minima of one level instead of two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_VALUES = 256  # per block of Q4_K
_BLOCK_BYTES = 144  # scale, scale of the minima (float16 each), 12 bytes of 6-bit numbers, 128 of nibbles


def q4_k_as_q4_1(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of Q4_K blocks ``[n, blocks * 144]`` as rows of Q4_1 blocks ``[n, blocks * 160]``.

    Scales and minima, products in Q4_K, are rounded to float16.
    """
    blocks = np.ascontiguousarray(rows).reshape(-1, _BLOCK_BYTES)
    num_blocks = len(blocks)
    super_scales = blocks[:, :4].copy().view("<f2").astype(np.float32)
    scales, minima = _six_bit(blocks[:, 4:16])
    # Of each 32 bytes the low nibbles are one group of 32 values, the high ones the next
    nibbles = blocks[:, 16:].reshape(num_blocks, 4, 1, 32)
    values = np.concatenate((nibbles & 15, nibbles >> 4), axis=2).reshape(num_blocks, 8, 32)

    out = np.empty((num_blocks, 8, 20), dtype=np.uint8)
    out[:, :, 0:2] = _half(super_scales[:, :1] * scales)
    out[:, :, 2:4] = _half(-super_scales[:, 1:] * minima)
    out[:, :, 4:] = values[:, :, :16] | values[:, :, 16:] << 4
    return out.reshape(len(rows), -1)


def _half(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return values.astype("<f2")[:, :, np.newaxis].view(np.uint8)


def _six_bit(packed: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Eight scales and eight minima of 6 bits from 12 bytes: the first four of each lie in the low bits of
    the first two quarters, the others in the last quarter's nibbles and the others' top bits."""
    first, second, last = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate((first & 63, last & 15 | (first >> 6) << 4), axis=1)
    minima = np.concatenate((second & 63, last >> 4 | (second >> 6) << 4), axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)
