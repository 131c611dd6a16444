"""Sampling on a GPU: from rows of logits to tokens and logprobs, without asking the host anything.

A row is cut into blocks of `BLOCK` tokens and a program computes one block, so that a single row of a large
vocabulary occupies many multiprocessors. What is left of a block is a number or two, and whoever needs the
row's sum reads those of all its blocks. A greedy token takes two kernels (the peak of every block, the
first of the highest), a random one three (the weight of every block between them; then the one block in
which the cumulative distribution passes the uniform).

Weights, ``exp((logit - peak) / temperature)``, are integers in units of ``2**-44``. Integers add up to the
same sum in any order, so a draw depends on neither blocks nor tiles, and inside a block the cumulative sum
cannot miss what the block's total promised. A token loses less than ``2**-44`` of the peak by it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ramet.kernels.triton.likeliest import keep_likeliest
from ramet.kernels.triton.logits import UNIT, distance_of, is_finite, of_blocks, values, weight_of

BLOCK = 4096  # tokens; 150,000 logits are 37 blocks


@triton.jit
def _survey(
    logits,  # [any, vocab_size]
    row_stride,
    vocab_size,
    rows,  # [n] which row of the logits
    samples,  # [n] where the parameters of the sample stand
    bitmask,  # [num_samples, num_words] int32, or None
    num_words,
    peaks,  # out: [n, BLOCKS] float32
    winners,  # out: [n, BLOCKS] int32, the first token of that value
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    place, block = tl.program_id(0), tl.program_id(1)
    row, sample = tl.load(rows + place), tl.load(samples + place)
    token = block * BLOCK + tl.arange(0, BLOCK)
    value = values(logits, row_stride, vocab_size, row, bitmask, num_words, sample, token)
    peak, winner = tl.max(value, 0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(peaks + place * BLOCKS + block, peak)
    tl.store(winners + place * BLOCKS + block, block * BLOCK + winner)


@triton.jit
def _weigh(
    logits,
    row_stride,
    vocab_size,
    rows,
    samples,
    bitmask,
    num_words,
    temperatures,  # [num_samples]; 0 = greedy, not weighed
    min_ps,  # [num_samples]
    peaks,
    totals,  # out: [n, BLOCKS] int64
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    place, block = tl.program_id(0), tl.program_id(1)
    row, sample = tl.load(rows + place), tl.load(samples + place)
    peak = tl.max(of_blocks(peaks, place, vocab_size, float("-inf"), BLOCK, BLOCKS), 0)
    temperature = tl.load(temperatures + sample)
    if (temperature > 0) & is_finite(peak):
        token = block * BLOCK + tl.arange(0, BLOCK)
        value = values(logits, row_stride, vocab_size, row, bitmask, num_words, sample, token)
        weight = weight_of(distance_of(value, peak, temperature), tl.load(min_ps + sample))
        tl.store(totals + place * BLOCKS + block, tl.sum(weight, 0))


@triton.jit
def _pick(
    logits,
    row_stride,
    vocab_size,
    rows,
    samples,
    bitmask,
    num_words,
    temperatures,
    min_ps,
    uniforms,  # [num_samples] float64 in [0, 1), or None if all are greedy
    peaks,
    winners,
    totals,
    token_ids,  # out: [num_samples] int32
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    place = tl.program_id(0)
    row, sample = tl.load(rows + place), tl.load(samples + place)
    block_peaks = of_blocks(peaks, place, vocab_size, float("-inf"), BLOCK, BLOCKS)
    peak, first = tl.max(block_peaks, 0, return_indices=True, return_indices_tie_break_left=True)
    chosen = tl.where(is_finite(peak), tl.load(winners + place * BLOCKS + first), -1)
    if uniforms is not None:
        temperature = tl.load(temperatures + sample)
        if (temperature > 0) & is_finite(peak):
            weights = of_blocks(totals, place, vocab_size, 0, BLOCK, BLOCKS)
            total = tl.sum(weights, 0)
            target = (tl.load(uniforms + sample) * total.to(tl.float64)).to(tl.int64)
            target = tl.minimum(target, total - 1)  # where the product was rounded up
            block = tl.sum((tl.cumsum(weights, 0) <= target).to(tl.int32), 0)
            target -= tl.sum(tl.where(tl.arange(0, BLOCKS) < block, weights, 0), 0)
            token = block * BLOCK + tl.arange(0, BLOCK)
            value = values(logits, row_stride, vocab_size, row, bitmask, num_words, sample, token)
            weight = weight_of(distance_of(value, peak, temperature), tl.load(min_ps + sample))
            chosen = block * BLOCK + tl.sum((tl.cumsum(weight, 0) <= target).to(tl.int32), 0)
    tl.store(token_ids + sample, chosen)


@triton.jit(do_not_specialize=["width"])
def _logprob(
    logits,
    row_stride,
    vocab_size,
    rows,  # [m] of the logits, and of peaks and totals
    numbers,  # [m] where the tokens stand and the logprobs go
    tokens,  # [any, width] int32; -1 for none
    peaks,
    totals,  # of all tokens, at a temperature of 1
    out,  # [any, width] float32
    width,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.load(rows + tl.program_id(0))
    at = tl.load(numbers + tl.program_id(0)) * width + tl.program_id(1)
    peak = tl.max(of_blocks(peaks, row, vocab_size, float("-inf"), BLOCK, BLOCKS), 0)
    total = tl.sum(of_blocks(totals, row, vocab_size, 0, BLOCK, BLOCKS), 0)
    token = tl.load(tokens + at)
    value = tl.load(logits + row * row_stride + token, mask=token >= 0, other=float("nan")).to(tl.float32)
    logprob = value - peak - tl.log(total.to(tl.float32) / UNIT)
    tl.store(out + at, tl.where(is_finite(peak), logprob, float("nan")))


class Distributions:
    """What rows of logits say about the next token, one distribution for each of ``n`` samples.

    Args:
        logits: ``[any, vocab_size]`` float32 or bfloat16, rows contiguous.
        rows: ``[n]`` int64, the row each of them is drawn from.
        samples: ``[n]`` int64, where its parameters stand in what follows.
        temperature, min_p: ``[num_samples]`` float32.
        bitmask: ``[num_samples, ceil(vocab_size / 32)]`` int32, or None if all tokens are allowed.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        rows: torch.Tensor,
        samples: torch.Tensor,
        temperature: torch.Tensor,
        min_p: torch.Tensor,
        bitmask: torch.Tensor | None = None,
    ) -> None:
        vocab_size = logits.shape[1]
        num_blocks = triton.cdiv(vocab_size, BLOCK)
        num_words = 0 if bitmask is None else bitmask.shape[1]
        self._read = (logits, logits.stride(0), vocab_size, rows, samples, bitmask, num_words)
        self._temperature, self._min_p = temperature, min_p
        self._grid = (rows.shape[0], num_blocks)
        self._blocks = max(triton.next_power_of_2(num_blocks), 2)
        self._peaks = self._empty((), torch.float32)
        self._winners = self._empty((), torch.int32)
        self._totals = self._empty((), torch.int64)
        _survey[self._grid](*self._read, self._peaks, self._winners, num_warps=8, **self._tiling)

    @property
    def _tiling(self) -> dict[str, int]:
        return {"BLOCK": BLOCK, "BLOCKS": self._blocks}

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        logits, rows = self._read[0], self._grid[0]
        return torch.empty((rows, self._blocks, *shape), dtype=dtype, device=logits.device)

    def keep_likeliest(self, amounts: torch.Tensor, *, weighted: bool) -> None:
        """Top-k or top-p: -inf, in the logits themselves, for all but the likeliest tokens.

        Args:
            amounts: ``[num_samples]`` float64; negative where all are kept, as it is to be where the
                temperature is 0. Else so many tokens are kept, the first ones among equally likely, or the
                fewest that have this share of the weight.
            weighted: whether amounts are shares.
        """
        keep_likeliest(
            (*self._read, self._temperature, self._peaks),
            amounts,
            self._grid,
            weighted=weighted,
            block=BLOCK,
            blocks=self._blocks,
        )

    def weigh(self) -> None:
        """Sum up what random samples are drawn from; comes after what drops tokens, before draws."""
        _weigh[self._grid](
            *self._read,
            self._temperature,
            self._min_p,
            self._peaks,
            self._totals,
            num_warps=8,
            **self._tiling,
        )

    def pick(self, uniforms: torch.Tensor | None, token_ids: torch.Tensor) -> None:
        """Tokens into ``token_ids`` ``[num_samples]`` int32, -1 where the peak is not finite.

        Greedy if the temperature is 0: the first of the likeliest. Else by inversion of the cumulative
        distribution in order of the vocabulary, with ``uniforms`` ``[num_samples]`` float64 in [0, 1); None
        if all are greedy.
        """
        _pick[self._grid[:1]](
            *self._read,
            self._temperature,
            self._min_p,
            uniforms,
            self._peaks,
            self._winners,
            self._totals,
            token_ids,
            num_warps=8,
            **self._tiling,
        )

    def logprobs(
        self,
        rows: torch.Tensor,
        numbers: torch.Tensor,
        tokens: torch.Tensor,
        out: torch.Tensor,
        columns: int = 1,
    ) -> None:
        """Logprobs of known tokens, of distributions that stand for all rows of the logits in their order.

        They have been weighed at a temperature of 1 and nothing was dropped.

        Args:
            rows: ``[m]`` int64.
            numbers: ``[m]`` int64: which tokens, and where their logprobs go.
            tokens: ``[any, width]`` int32; -1 gives NaN, as does a row that is not finite.
            out: ``[any, width]`` float32, written to.
            columns: so many are computed, of ``width``.
        """
        logits, row_stride, vocab_size, *_ = self._read
        _logprob[(rows.shape[0], columns)](
            logits,
            row_stride,
            vocab_size,
            rows,
            numbers,
            tokens,
            self._peaks,
            self._totals,
            out,
            tokens.stride(0),
            **self._tiling,
        )
