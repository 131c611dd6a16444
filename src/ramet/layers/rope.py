"""Rotary position embeddings (arXiv 2104.09864): a table of angles, and rotating by it."""

from __future__ import annotations

import torch

BLOCK_POSITIONS = 8192  # bounds the float64 temporaries while a table is built


class RotaryTable:
    """Cosines and sines of every position, computed once in float64 and kept in float32.

    Looking angles up keeps trigonometry, whose last bit depends on the code path, out of the steps.
    """

    def __init__(
        self, frequencies: torch.Tensor, magnitude: float, num_positions: int, device: torch.device
    ) -> None:
        """
        Args:
            frequencies: ``[head_dim / 2]`` float64, radians per position.
            magnitude: scales cosines and sines (YaRN), 1 otherwise.
            num_positions: positions 0 .. num_positions - 1 can be looked up.
            device: where the table lies.
        """
        half = frequencies.shape[0]
        self._cos_sin = torch.empty(num_positions, 2, 1, half, dtype=torch.float32, device=device)
        for begin in range(0, num_positions, BLOCK_POSITIONS):
            end = min(begin + BLOCK_POSITIONS, num_positions)
            angles = torch.arange(begin, end, dtype=torch.float64)[:, None] * frequencies
            block = torch.stack((angles.cos(), angles.sin()), dim=1) * magnitude
            self._cos_sin[begin:end, :, 0] = block.float()

    def lookup(self, positions: torch.Tensor) -> torch.Tensor:
        """``[num_rows, 2, 1, head_dim / 2]``: cosines and sines of int64 positions ``[num_rows]``."""
        return self._cos_sin.index_select(0, positions)


def rotate(x: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs ``(x[i], x[i + head_dim / 2])`` of every head by its row's angles.

    Args:
        x: ``[num_rows, num_heads, head_dim]``
        cos_sin: what `RotaryTable.lookup` returned for the rows' positions.
    """
    cos, sin = cos_sin.unbind(1)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
