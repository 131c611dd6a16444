"""Logits on their way to a distribution: how kernels of sampling read them, what is added to them before."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ENTRIES = 1024  # penalties or biases per program
UNIT = tl.constexpr(2.0**44)  # of weights; less than 2**19 of them fit in an int64


@triton.jit
def values(logits, row_stride, vocab_size, row, bitmask, num_words, sample, token) -> tl.tensor:
    """Float32 logits of tokens: -inf for those that may not be drawn, +inf for NaN, which is as bad."""
    inside = token < vocab_size
    value = tl.load(logits + row * row_stride + token, mask=inside, other=float("-inf")).to(tl.float32)
    if bitmask is not None:
        word = tl.load(bitmask + sample * num_words + token // 32, mask=inside, other=0)
        value = tl.where(((word >> (token % 32)) & 1) != 0, value, float("-inf"))
    return tl.where(value == value, value, float("inf"))


@triton.jit
def of_blocks(array, place, vocab_size, other, BLOCK: tl.constexpr, BLOCKS: tl.constexpr) -> tl.tensor:
    """What ``array`` ``[n, BLOCKS]`` has for the blocks of a row."""
    block = tl.arange(0, BLOCKS)
    return tl.load(array + place * BLOCKS + block, mask=block * BLOCK < vocab_size, other=other)


@triton.jit
def is_finite(value) -> tl.tensor:
    return (value > float("-inf")) & (value < float("inf"))


@triton.jit
def distance_of(value, peak, temperature) -> tl.tensor:
    # Relative to the peak first, so that a tiny temperature cannot make a NaN
    return tl.div_rn(peak - value, temperature)


@triton.jit
def weight_of(distance, min_p) -> tl.tensor:
    ratio = tl.exp(-distance)
    return (tl.where(ratio >= min_p, ratio, 0.0) * UNIT).to(tl.int64)


@triton.jit(do_not_specialize=["num_entries"])
def _penalize(
    logits,  # [num_samples of the part, vocab_size] float32, contiguous
    vocab_size,
    places,  # [num_samples] which row; -1 for none
    entry_sample,  # [num_entries]
    entry_token,
    entry_count,
    repetition,  # [num_samples]
    frequency,
    presence,
    num_entries,
    ENTRIES: tl.constexpr,
):
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    inside = entry < num_entries
    sample = tl.load(entry_sample + entry, mask=inside, other=0)
    place = tl.load(places + sample, mask=inside, other=-1)
    inside = place >= 0
    token = tl.load(entry_token + entry, mask=inside, other=0)
    count = tl.load(entry_count + entry, mask=inside, other=0).to(tl.float32)
    factor = tl.load(repetition + sample, mask=inside, other=1.0)
    at = logits + place * vocab_size + token
    value = tl.load(at, mask=inside, other=0.0)
    value = tl.where(value > 0, tl.div_rn(value, factor), value * factor)
    value -= tl.load(frequency + sample, mask=inside, other=0.0) * count
    value -= tl.where(count > 0, tl.load(presence + sample, mask=inside, other=0.0), 0.0)
    tl.store(at, value, mask=inside)


@triton.jit(do_not_specialize=["num_entries"])
def _add_bias(
    logits,  # as above
    vocab_size,
    places,
    entry_sample,  # [num_entries], each (sample, token) once
    entry_token,
    entry_value,
    num_entries,
    ENTRIES: tl.constexpr,
):
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    inside = entry < num_entries
    sample = tl.load(entry_sample + entry, mask=inside, other=0)
    place = tl.load(places + sample, mask=inside, other=-1)
    inside = place >= 0
    at = logits + place * vocab_size + tl.load(entry_token + entry, mask=inside, other=0)
    bias = tl.load(entry_value + entry, mask=inside, other=0.0)
    tl.store(at, tl.load(at, mask=inside, other=0.0) + bias, mask=inside)


def penalize(
    logits: torch.Tensor,
    places: torch.Tensor,
    entries: tuple[torch.Tensor, ...],
    of_sample: tuple[torch.Tensor, ...],
) -> None:
    """`ramet.runner.filters.apply_penalties`, in place.

    Args:
        logits: ``[n, vocab_size]`` float32, contiguous.
        places: ``[num_samples]`` int64, the row of each sample, -1 for samples that have none.
        entries: sample, token and count of each, ``[num_entries]`` int32; a token once per sample.
        of_sample: repetition, frequency and presence, ``[num_samples]`` float32.
    """
    num_entries = entries[0].shape[0]
    if num_entries:
        grid = (triton.cdiv(num_entries, ENTRIES),)
        _penalize[grid](logits, logits.shape[1], places, *entries, *of_sample, num_entries, ENTRIES=ENTRIES)


def add_bias(logits: torch.Tensor, places: torch.Tensor, entries: tuple[torch.Tensor, ...]) -> None:
    """`ramet.runner.filters.apply_bias`, in place, of entries that name a token once per sample.

    Args:
        logits, places: as for `penalize`.
        entries: sample and token of each, ``[num_entries]`` int32, and the value, float32.
    """
    num_entries = entries[0].shape[0]
    if num_entries:
        grid = (triton.cdiv(num_entries, ENTRIES),)
        _add_bias[grid](logits, logits.shape[1], places, *entries, num_entries, ENTRIES=ENTRIES)
