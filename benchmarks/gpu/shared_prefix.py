"""Branches of one long prompt: against short prompts, and against attention that shares nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from msgspec import structs

from gpu import decode
from gpu.bench import Bench
from gpu.driving import Loaded, Steps
from gpu.settings import Cell
from gpu.shapes import Shape
from gpu.timing import device_seconds, recorded
from ramet.attention.base import AttentionBackend, ForwardBatch
from ramet.attention.reference import ReferenceAttention
from ramet.model_io import CHUNK_TOKENS, Int32Array, ModelInput, Segments
from ramet.runner.kv_pool import KVPool

_STEPS = "decode steps"
_OWN_TOKENS = 8
_CALLS = 4  # of attention, recorded together
_BLOCK = 1 << 16  # slots that are copied at once
_TOLERANCE = 0.02  # of the norm; bfloat16 has 8 bits


def run(bench: Bench) -> None:
    """Whole steps, then attention alone."""
    sizes, loaded = bench.sizes, bench.load(bench.sizes.large)
    branches = row_of(bench, _STEPS, loaded, sizes.prefix)
    step = loaded.runner.last_input
    assert step is not None
    prompts = decode.row_of(bench, _STEPS, loaded, sizes.branches, sizes.short_prompt)
    _against(
        bench,
        f"a step of {sizes.branches} branches of {sizes.prefix:,} tokens by one of as many prompts of "
        f"{sizes.short_prompt}",
        branches.mean / prompts.mean,
        "at most 1.5",
    )
    shape, dtype = loaded.shape, torch.bfloat16 if bench.device.type == "cuda" else torch.float32
    bench.unload()  # what follows needs room of its own
    together, apart, copied = attention_seconds(shape, step, bench.device, dtype)
    for plan, taken in (
        ("shared", together),
        ("each branch by itself, from the same KV", apart),
        ("each branch by itself, from KV of its own", copied),
    ):
        bench.row(
            "attention of one layer",
            {"plan": plan, "us": 1e6 * taken, "times the shared one": taken / together},
        )
    _against(
        bench,
        "attention of each branch by itself, from KV of its own, by shared attention",
        copied / together,
        "at least 10",
    )


def row_of(bench: Bench, table: str, loaded: Loaded, length: int, **labels: Cell) -> Steps:
    """Measure branches of one prompt of this length and report them."""
    sizes, prefix = bench.sizes, loaded.prompt(length)
    steps = decode.decoding(
        bench, loaded, [prefix + loaded.prompt(_OWN_TOKENS) for _ in range(sizes.branches)]
    )
    own = _OWN_TOKENS + sizes.warm_ups + sizes.steps // 2
    decode.report(
        bench,
        table,
        loaded,
        steps,
        {
            **labels,
            "rows": sizes.branches,
            "context": length + _OWN_TOKENS,
            "in common": length,
        },
        attended=sizes.branches * (length + own),
        kept=length + sizes.branches * own,
    )
    return steps


def _against(bench: Bench, figure: str, value: float, target: str) -> None:
    bench.row("against the targets", {"figure": figure, "value": value, "target": target})


@torch.inference_mode()
def attention_seconds(
    shape: Shape, model_input: ModelInput, device: torch.device, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Attention of one layer: as the engine planned it, and with a plan that shares nothing.

    Args:
        shape: of the model.
        model_input: of a decode step of branches.
        device: to compute on.
        dtype: of queries, keys and values.

    Returns:
        Seconds of the step's own plan; of each row by itself; and the same from KV of its own.
    """
    segments, num_slots = compact(model_input.segments)
    alone = unshared(segments)
    copies, num_copied = with_own_slots(alone, len(model_input.positions))
    one_layer = dataclasses.replace(shape.config, num_layers=1)
    attention = _attention(shape, device)
    queries = torch.randn(
        len(model_input.positions), shape.config.num_heads, shape.config.head_dim, device=device
    ).to(dtype)
    seconds: list[float] = []
    results: list[torch.Tensor] = []
    pool = KVPool(one_layer, num_slots, dtype, device)
    for tensor in pool.layer(0):
        tensor.copy_(torch.randn(tensor.shape, device=device))
    for plan in (segments, alone):
        call = _call(attention, structs.replace(model_input, segments=plan), queries, pool)
        results.append(call())
        seconds.append(_seconds(call, device))
    pool = _copied(pool, alone, copies, KVPool(one_layer, num_copied, dtype, device))
    call = _call(attention, structs.replace(model_input, segments=copies), queries, pool)
    results.append(call())
    seconds.append(_seconds(call, device))
    for result in results[1:]:
        error = float((result - results[0]).float().norm() / results[0].float().norm())
        if not error < _TOLERANCE:
            raise AssertionError(f"plans of the same attention differ by {error:.2%}")
    return seconds[0], seconds[1], seconds[2]


def _attention(shape: Shape, device: torch.device) -> AttentionBackend:
    if device.type != "cuda":
        return ReferenceAttention()
    from ramet.attention.triton import TritonAttention

    config = shape.config
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return TritonAttention(
        config.num_heads, config.num_kv_heads, config.head_dim, num_multiprocessors=processors
    )


def _call(
    attention: AttentionBackend, model_input: ModelInput, queries: torch.Tensor, pool: KVPool
) -> Callable[[], torch.Tensor]:
    batch = attention.plan(ForwardBatch.from_input(model_input, queries.device))
    keys, values = pool.layer(0)
    return lambda: attention.forward(queries, keys, values, batch)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    return device_seconds(recorded(call, device, _CALLS), device) / _CALLS


def compact(segments: Segments) -> tuple[Segments, int]:
    """The same plan over a pool that holds nothing else, and how many slots that has."""
    used, slots = np.unique(segments.slots, return_inverse=True)
    return structs.replace(segments, slots=slots.astype(np.int32)), len(used)


def unshared(segments: Segments) -> Segments:
    """The same attention with a segment of its own for each row."""
    counts = segments.row_end - segments.row_begin
    index = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + segments.row_begin[index]
    lengths = np.diff(segments.slot_offsets)
    padded = np.zeros((len(counts), CHUNK_TOKENS), dtype=np.int32)
    is_used = np.arange(CHUNK_TOKENS) < lengths[:, None]
    padded[is_used] = segments.slots
    return Segments(
        row_begin=row.astype(np.int32),
        row_end=(row + 1).astype(np.int32),
        first_position=segments.first_position[index],
        slot_offsets=_offsets(lengths[index]),
        slots=padded[index][is_used[index]],
    )


def with_own_slots(alone: Segments, num_rows: int) -> tuple[Segments, int]:
    """An `unshared` plan in which each row reads slots that no other one does, and how many slots that is.

    The slots of a row lie side by side in order of position.
    """
    lengths = np.diff(alone.slot_offsets)
    by_row = np.argsort(alone.row_begin, kind="stable")
    begins = np.empty(len(lengths), dtype=np.int64)
    begins[by_row] = np.cumsum(lengths[by_row]) - lengths[by_row]
    within = np.arange(len(alone.slots)) - np.repeat(alone.slot_offsets[:-1], lengths)
    assert num_rows == len(np.unique(alone.row_begin)), "every row attends to something"
    slots = (np.repeat(begins, lengths) + within).astype(np.int32)
    return structs.replace(alone, slots=slots), len(slots)


def _copied(pool: KVPool, source: Segments, target: Segments, into: KVPool) -> KVPool:
    """``into``, with what the slots of one plan hold at those of the other."""
    device = pool.layer(0)[0].device
    from_slots, to_slots = (torch.from_numpy(plan.slots).to(device).long() for plan in (source, target))
    for old, new in zip(pool.layer(0), into.layer(0), strict=True):
        for begin in range(0, len(from_slots), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            new[to_slots[block]] = old[from_slots[block]]
    return into


def _offsets(lengths: Int32Array) -> Int32Array:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
