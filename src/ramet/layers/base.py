"""What a model asks of whatever does its arithmetic."""

from __future__ import annotations

from typing import Protocol

import torch


class Operations(Protocol):
    """The arithmetic of a decoder, all but attention.

    What becomes of a row depends on that row alone. Only of `linear` an implementation may say that a row's
    company shows in its last bits. The tensors of a call lie on one device and have one dtype, unless it says
    otherwise.
    """

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``x @ weight.T + bias``.

        Args:
            x: ``[num_rows, in_features]``
            weight: ``[out_features, in_features]``
            bias: ``[out_features]``

        Returns:
            ``[num_rows, out_features]``
        """
        ...

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """``x / sqrt(mean(x²) + eps) * weight`` over the last dimension, computed in float32."""
        ...

    def add_and_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``hidden + delta``, rounded to their dtype, and the `norm` of that.

        Args:
            hidden, delta: ``[num_rows, hidden_size]``; left as they are.
            weight: ``[hidden_size]``
        """
        ...

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
        """Norm each head of queries and keys, if there are weights for it, rotate them by their row's angles
        (arXiv 2104.09864), and put keys and values into the slots of the rows.

        The pool may have another dtype than the rows; larger numbers than it can hold become its largest. A
        key or value that is not finite spoils the rows that may see it and no others: that head's key is
        written as not-a-number and its value as 0, since 0 times infinity would reach rows that give it no
        weight.

        Args:
            qkv: ``[num_rows, (num_heads + 2 * num_kv_heads) * head_dim]``: queries, keys and values of a row.
            cos_sin: ``[num_rows, 2, 1, head_dim / 2]`` float32, of `ramet.layers.rope.RotaryTable.lookup`.
            slot_ids: ``[num_rows]`` int32 or int64. Of rows with one slot, any may be the one that is kept.
            keys, values: the layer's part of the pool, ``[num_slots, num_kv_heads, head_dim]``; written to.
            query_norm, key_norm: ``[head_dim]``, both or neither.
            eps: of these norms.

        Returns:
            The rotated queries ``[num_rows, num_heads, head_dim]``.
        """
        ...

    def silu_and_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) * up`` for ``gate_up`` ``[num_rows, 2 * size]``; returns ``[num_rows, size]``."""
        ...
