"""What a model takes of a memory, and how many KV slots there is room for beside it.

Arithmetic only: `ramet.runner.profile_memory` measures. Must not know: torch, or how a pool is laid out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ramet.errors import InvalidRequest, ModelError
from ramet.models.config import ModelConfig
from ramet.models.tensor_shapes import tensor_shapes

MEMORY_SHARE = 4  # an automatic pool takes at most one part in this many of the memory that is free
CONTEXTS_PER_POOL = 4  # and at most this many full contexts: more would rarely be used

GRAPH_BYTES = 512 * 2**20
"""Kept free on a GPU for CUDA graphs, which are recorded after the pool is made."""

MAX_SLOTS = 2**31 - 1  # slot ids are int32


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on a device that holds the weights, in bytes."""

    step: int  # what the largest step takes while it is computed, beyond weights and KV
    free: int  # what the device could still give


def slot_bytes(config: ModelConfig, element_bytes: int) -> int:
    """Bytes of keys and values per slot, over all layers, at ``element_bytes`` a number."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * element_bytes


def weight_bytes(config: ModelConfig, element_bytes: int) -> int:
    """Bytes of all weights at ``element_bytes`` a number."""
    return sum(map(prod, tensor_shapes(config).values())) * element_bytes


def readable(num_bytes: int) -> str:
    """Such as ``15.0 GiB`` or ``3.5 MiB``."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def check_weights_fit(
    config: ModelConfig, element_bytes: int, available_bytes: int, *, dtype: str, device: str
) -> None:
    """Refuse, before anything is loaded, weights that the memory cannot hold.

    Args:
        config: of the model.
        element_bytes: of a weight.
        available_bytes: free memory of the device.
        dtype, device: what to call them.

    Raises:
        ModelError: they do not fit.
    """
    needed = weight_bytes(config, element_bytes)
    if needed > available_bytes:
        raise ModelError(
            f"the weights of this {config.architecture} model need {readable(needed)} in {dtype}, and "
            f"{device} has {readable(available_bytes)} free; {smaller_weights(dtype, device)}"
        )


def smaller_weights(dtype: str, device: str) -> str:
    """What to do where weights do not fit."""
    halved = "use dtype='bfloat16', " if dtype == "float32" else ""
    elsewhere = "device='cpu'" if device != "cpu" else "a GPU with more memory"
    return f"{halved}free memory that others hold, or use {elsewhere} or a smaller model"


def choose_num_slots(
    config: ModelConfig, element_bytes: int, available_bytes: int, max_kv_tokens: int | None
) -> int:
    """How many slots the pool gets in the memory of a CPU.

    A given number is taken as it is, if it fits the memory. Otherwise: a quarter of the available memory,
    but not more than four full contexts.

    Raises:
        InvalidRequest: ``max_kv_tokens`` is not positive.
        ModelError: the memory does not suffice.
    """
    per_slot = slot_bytes(config, element_bytes)
    if max_kv_tokens is None:
        num_slots = min(
            available_bytes // MEMORY_SHARE // per_slot, CONTEXTS_PER_POOL * config.context_length
        )
        if num_slots < 1:
            raise ModelError(
                f"no memory for the KV pool: {available_bytes:,} bytes are free, a slot takes {per_slot:,}"
            )
        return num_slots
    _check_positive(max_kv_tokens)
    if max_kv_tokens * per_slot > available_bytes:
        raise ModelError(
            f"max_kv_tokens={max_kv_tokens:,} needs {max_kv_tokens * per_slot:,} bytes, but only "
            f"{available_bytes:,} are free (at most {available_bytes // per_slot:,} slots fit)"
        )
    return max_kv_tokens


def measured_num_slots(
    config: ModelConfig,
    element_bytes: int,
    measured: Measured,
    fraction: float,
    max_kv_tokens: int | None,
    *,
    weights: int,
) -> int:
    """How many slots the pool gets on a GPU, which serves nothing else: all there is room for.

    Pool, the tensors of a step and CUDA graphs share a fraction of the memory that the weights leave free.
    A given number of slots is taken as it is, if it fits.

    Args:
        config: of the model.
        element_bytes: of a key or value.
        measured: on the device.
        fraction: of the free memory, in (0, 1].
        max_kv_tokens: wanted slots; None: as many as fit.
        weights: their bytes, for the message of an error.

    Raises:
        InvalidRequest: ``max_kv_tokens`` is not positive.
        ModelError: the memory does not suffice.
    """
    per_slot = slot_bytes(config, element_bytes)
    room = int(measured.free * fraction) - measured.step - GRAPH_BYTES
    fitting = min(max(room, 0) // per_slot, MAX_SLOTS)
    if max_kv_tokens is not None:
        _check_positive(max_kv_tokens)
    wanted = fitting if max_kv_tokens is None else max_kv_tokens
    if 1 <= wanted <= fitting:
        return wanted
    refused = (
        "no memory for the KV pool"
        if max_kv_tokens is None
        else f"max_kv_tokens={max_kv_tokens:,} needs {readable(max_kv_tokens * per_slot)}, and at most "
        f"{fitting:,} slots fit"
    )
    raise ModelError(
        f"{refused}: beside {readable(weights)} of weights {readable(measured.free)} are free, of "
        f"which gpu_memory_fraction={fraction:g} may be used; a step takes {readable(measured.step)}, CUDA "
        f"graphs {readable(GRAPH_BYTES)}, a slot {per_slot:,} bytes. Lower max_batch_tokens, raise "
        "gpu_memory_fraction, or use a smaller kv_dtype or model"
    )


def _check_positive(max_kv_tokens: int) -> None:
    if max_kv_tokens < 1:
        raise InvalidRequest(f"max_kv_tokens must be at least 1, got {max_kv_tokens}")
