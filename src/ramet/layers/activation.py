"""Activations of the feed-forward block."""

from __future__ import annotations

import torch


def silu_and_multiply(gate_up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up`` for ``gate_up`` ``[num_rows, 2 * size]``; returns ``[num_rows, size]``.

    NOTE: torch's own silu and sigmoid round differently in the scalar loop that finishes a buffer, so a
    value would depend on where it stands. ``torch.exp`` has one code path, and the rest is exact IEEE
    arithmetic. Computed in float32.
    """
    gate, up = gate_up.float().chunk(2, dim=-1)
    denominator = torch.exp(-gate).add_(1.0)
    return (gate / denominator).mul_(up).to(gate_up.dtype)
