"""`Operations` in plain torch, on any device: the definition that Triton's are tested against."""

from __future__ import annotations

import torch

from ramet.layers.activation import silu_and_multiply
from ramet.layers.linear import linear
from ramet.layers.norm import rms_norm
from ramet.layers.rope import rotate


class TorchOperations:
    """The functions of this package as `ramet.layers.base.Operations`. On a CPU a row's bits do not depend on
    its company."""

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return linear(x, weight, bias)

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return rms_norm(x, weight, eps)

    def add_and_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden + delta
        return total, rms_norm(total, weight, eps)

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
        num_kv_heads, head_dim = keys.shape[1:]
        heads = qkv.view(-1, qkv.shape[1] // head_dim, head_dim)
        values_from = heads.shape[1] - num_kv_heads
        keys_from = values_from - num_kv_heads
        queries, new_keys = heads[:, :keys_from], heads[:, keys_from:values_from]
        new_values = heads[:, values_from:]
        if query_norm is not None and key_norm is not None:
            queries = rms_norm(queries, query_norm, eps)
            new_keys = rms_norm(new_keys, key_norm, eps)
        new_keys = rotate(new_keys, cos_sin)
        finite = (new_keys.isfinite() & new_values.isfinite()).all(-1, keepdim=True)
        _put(keys, slot_ids, new_keys.where(finite, torch.nan))
        _put(values, slot_ids, new_values.where(finite, 0.0))
        return rotate(queries, cos_sin)

    def silu_and_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        return silu_and_multiply(gate_up)


def _put(pool: torch.Tensor, slot_ids: torch.Tensor, rows: torch.Tensor) -> None:
    limit = torch.finfo(pool.dtype).max
    # NOTE: not by index_copy_, which torch does not have for float8
    pool[slot_ids] = rows.float().clamp(-limit, limit).to(pool.dtype)
