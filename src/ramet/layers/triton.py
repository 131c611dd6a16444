"""`Operations` on a GPU: Triton kernels for what is done row by row and, if wanted, matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ramet.kernels.triton import matmul, rowwise


class TritonOperations:
    """`ramet.layers.base.Operations` in Triton.

    Args:
        deterministic: a row of a matrix product becomes the same bits in every batch. Otherwise torch
            multiplies, which is faster; its libraries choose an order of summation by the number of rows.
    """

    def __init__(self, *, deterministic: bool = False) -> None:
        self._linear = matmul.linear if deterministic else F.linear

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return self._linear(x, weight, bias)

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return rowwise.rms_norm(x, weight, eps)

    def add_and_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return rowwise.add_and_rms_norm(hidden, delta, weight, eps)

    def rotate_and_write(
        self,
        qkv: torch.Tensor,
        cos_sin: torch.Tensor,
        slot_ids: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        query_norm: torch.Tensor | None = None,
        key_norm: torch.Tensor | None = None,
        eps: float = 0.0,
    ) -> torch.Tensor:
        return rowwise.rotate_and_write(qkv, cos_sin, slot_ids, keys, values, query_norm, key_norm, eps)

    def silu_and_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        return rowwise.silu_and_multiply(gate_up)
