"""What a torch runner is put together from, with the reference's parts or with those in Triton.

Must not know: weights, memory.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ramet.attention.base import AttentionBackend
from ramet.attention.reference import ReferenceAttention
from ramet.config import ModelOptions
from ramet.errors import UnsupportedFeature, UnsupportedModel
from ramet.layers.base import Operations
from ramet.layers.reference import TorchOperations
from ramet.models.base import CausalModel
from ramet.models.config import ModelConfig
from ramet.runner.forward import EagerForward, Forward
from ramet.runner.kv_pool import KVPool
from ramet.runner.model_runner import Draw

logger = logging.getLogger(__name__)

MAX_VOCAB = 2**19 - 1  # the sum of so many weights of `ramet.kernels.triton.sampling` is an int64

RecordedForward: TypeAlias = Callable[[CausalModel, KVPool], Forward]


@dataclass(frozen=True, slots=True)
class Parts:
    """All that computes, but for the model itself."""

    operations: Operations
    attention: AttentionBackend
    device: torch.device
    draw: Draw | None = None  # None: by the reference
    recorded: RecordedForward | None = None  # makes what replays small steps; None: they run eagerly

    def forward(self, model: CausalModel, pool: KVPool, *, graphs: bool) -> Forward:
        if graphs and self.recorded is not None:
            return self.recorded(model, pool)
        return EagerForward(model, self.attention, pool, self.device)


def choose_parts(config: ModelConfig, options: ModelOptions, device: torch.device) -> Parts:
    """Triton's on a GPU, if it is installed and not declined; otherwise the reference's.

    Raises:
        UnsupportedFeature: ``deterministic`` on a GPU without Triton.
        UnsupportedModel: more tokens than samples can be drawn from on a GPU.
    """
    has_triton = importlib.util.find_spec("triton") is not None
    if device.type == "cuda" and options.kernels != "torch" and has_triton:
        return _triton_parts(config, options, device)
    if device.type == "cuda":
        if options.deterministic:
            raise UnsupportedFeature(
                "deterministic=True on a GPU needs the Triton kernels: kernels='auto', and pip install triton"
            )
        if options.kernels != "torch":
            logger.warning("computing with the slow torch reference: pip install triton")
    return Parts(TorchOperations(), ReferenceAttention(), device)


def _triton_parts(config: ModelConfig, options: ModelOptions, device: torch.device) -> Parts:
    from ramet.attention.triton import TritonAttention
    from ramet.layers.triton import TritonOperations
    from ramet.runner.cuda_graph import GraphedForward
    from ramet.runner.device_sampler import draw

    if config.vocab_size > MAX_VOCAB:
        raise UnsupportedModel(
            f"the vocabulary has {config.vocab_size:,} tokens, and a GPU draws from at most {MAX_VOCAB:,}; "
            "use kernels='torch'"
        )
    attention = TritonAttention(
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        num_multiprocessors=torch.cuda.get_device_properties(device).multi_processor_count,
        deterministic=options.deterministic,
    )

    def recorded(model: CausalModel, pool: KVPool) -> Forward:
        return GraphedForward(model, attention, pool, device)

    return Parts(
        TritonOperations(deterministic=options.deterministic),
        attention,
        device,
        draw,
        recorded if options.cuda_graphs else None,
    )
