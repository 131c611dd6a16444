"""What a model passes to attention, and what an attention backend is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ramet.model_io import ModelInput, Segments


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The rows of one step, passed explicitly to whatever computes them."""

    input_ids: torch.Tensor  # [num_rows] int64
    positions: torch.Tensor  # [num_rows] int64
    slot_ids: torch.Tensor  # [num_rows] int64
    segments: Segments
    plan: object = None  # what the attention backend's `plan` prepared; only that backend reads it

    @classmethod
    def from_input(
        cls, model_input: ModelInput, device: torch.device, drawn: torch.Tensor | None = None
    ) -> ForwardBatch:
        """The step's arrays as tensors on a device, not planned yet. Does not wait for the device.

        ``drawn`` are the tokens that the step before drew, ``[num_samples]`` on the device: ids below 0 are
        looked up there. A token of -1, drawn from logits that are not finite, becomes 0: its row is computed,
        but nobody will ask for it.
        """
        given = (model_input.input_ids, model_input.positions, model_input.slot_ids)
        host = host_array(sum(map(len, given)), device)
        np.concatenate(given, out=host.numpy())
        # Each converted by itself: Triton would compile kernels once more for one that begins elsewhere
        parts = host.to(device, non_blocking=True).view(len(given), -1)
        input_ids, positions, slot_ids = (part.to(torch.int64) for part in parts)
        if drawn is not None and len(drawn):
            known = drawn.to(torch.int64)[(-1 - input_ids).clamp_min_(0)].clamp_min_(0)
            input_ids = torch.where(input_ids < 0, known, input_ids)
        return cls(
            input_ids=input_ids,
            positions=positions,
            slot_ids=slot_ids,
            segments=model_input.segments,
        )


def host_array(size: int, device: torch.device) -> torch.Tensor:
    """Room for so many int32 on the host, from where they go to the device while Python continues.

    It may be dropped once a copy has been queued: torch reuses page-locked memory only when the copies from
    it are done.
    """
    return torch.empty(size, dtype=torch.int32, pin_memory=device.type == "cuda")


class KVStore(Protocol):
    """Keys and values of every layer, addressed by slot."""

    def layer(self, layer_index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values, each ``[num_slots, num_kv_heads, head_dim]``, to be read and written."""
        ...


class AttentionBackend(Protocol):
    """Grouped-query causal attention over slots."""

    def plan(self, forward: ForwardBatch) -> ForwardBatch:
        """The batch with everything the layers share worked out; called once per step."""
        ...

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, forward: ForwardBatch
    ) -> torch.Tensor:
        """Attention of one layer, whose new keys and values are in their slots already.

        Args:
            queries: ``[num_rows, num_heads, head_dim]``, rotated but not scaled.
            keys, values: ``[num_slots, num_kv_heads, head_dim]``
            forward: what `plan` returned.

        Returns:
            ``[num_rows, num_heads * head_dim]`` in the dtype of the queries.
        """
        ...
