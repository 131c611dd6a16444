"""Top-k and top-p on a GPU, without sorting.

Both ask for the least set of likeliest tokens whose mass (their number, or weight) reaches an amount. The
float32 bits of ``(peak - logit) / temperature >= 0`` order tokens, likeliest first; the value where the
cumulative mass reaches the amount is found digit by digit (radix selection), in eight passes of four bits
that each sum the mass of 16 digits. With more bits there would be fewer passes but, per token, more
additions than it takes to read the logit. A sort would write every value and its index several times, where
a pass only reads; steps in which every row asks for top-p are common.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ramet.kernels.triton.logits import distance_of, is_finite, of_blocks, values, weight_of

CHUNK = 256  # tokens that a pass holds at a time, once per digit
DIGIT = tl.constexpr(16)
LEVELS = tl.constexpr(8)  # 31 bits of a float32 that is not negative, four at a time


@triton.jit
def _descend(
    sums,  # [n, BLOCKS, DIGIT] int64, of the digits of the level before
    prefixes,  # [LEVELS + 1, n] int32, the digits found at a level, the others 0
    rooms,  # [LEVELS + 1, n] int64, the mass left for tokens that begin with them
    amount,
    place,
    vocab_size,
    level,  # 1 .. LEVELS
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The digit of the level before that the amount falls into: (prefix with it, room left in it)."""
    block, digits = tl.arange(0, BLOCKS), tl.arange(0, DIGIT)
    at = (place * BLOCKS + block)[:, None] * DIGIT + digits[None, :]
    of_digit = tl.sum(tl.load(sums + at, mask=(block * BLOCK < vocab_size)[:, None], other=0), 0)
    if level == 1:  # every token has been counted
        prefix = tl.full([], 0, tl.int32)
        if WEIGHTED:
            room = tl.ceil(amount * tl.sum(of_digit, 0).to(tl.float64)).to(tl.int64)
        else:
            room = amount.to(tl.int64)
    else:
        before = (level - 1) * tl.num_programs(0) + place
        prefix, room = tl.load(prefixes + before), tl.load(rooms + before)
    digit = tl.sum((tl.cumsum(of_digit, 0) < room).to(tl.int32), 0)
    room -= tl.sum(tl.where(digits < digit, of_digit, 0), 0)
    return prefix + (digit << (32 - 4 * level)), room


@triton.jit(do_not_specialize=["level"])
def _count_digits(
    logits,
    row_stride,
    vocab_size,
    rows,
    samples,
    bitmask,
    num_words,
    temperatures,
    peaks,
    amounts,  # [num_samples] float64, of tokens or of the whole weight; negative: the sample wants all
    sums_before,
    sums,  # out
    prefixes,  # out, of this level
    rooms,
    level,  # 0 .. LEVELS - 1
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    place, block = tl.program_id(0), tl.program_id(1)
    row, sample = tl.load(rows + place), tl.load(samples + place)
    peak = tl.max(of_blocks(peaks, place, vocab_size, float("-inf"), BLOCK, BLOCKS), 0)
    amount = tl.load(amounts + sample)
    if (amount >= 0) & is_finite(peak):
        prefix = tl.full([], 0, tl.int32)
        if level > 0:
            prefix, room = _descend(
                sums_before, prefixes, rooms, amount, place, vocab_size, level, WEIGHTED, BLOCK, BLOCKS
            )
            here = level * tl.num_programs(0) + place
            tl.store(prefixes + here, prefix, mask=block == 0)
            tl.store(rooms + here, room, mask=block == 0)
        shift = 28 - 4 * level
        temperature = tl.load(temperatures + sample)
        digits = tl.arange(0, DIGIT)
        counted = tl.zeros([DIGIT, CHUNK], tl.int64)
        for begin in range(0, BLOCK, CHUNK):
            token = block * BLOCK + begin + tl.arange(0, CHUNK)
            value = values(logits, row_stride, vocab_size, row, bitmask, num_words, sample, token)
            distance = distance_of(value, peak, temperature)
            if WEIGHTED:
                mass = weight_of(distance, 0.0)
            else:
                mass = (token < vocab_size).to(tl.int64)
            # Outside 0 .. 15 if an earlier digit differs
            digit = (distance.to(tl.int32, bitcast=True) >> shift) - (prefix >> shift)
            counted += tl.where(digit[None, :] == digits[:, None], mass[None, :], 0)
        tl.store(sums + (place * BLOCKS + block) * DIGIT + digits, tl.sum(counted, 1))


@triton.jit
def _drop(
    logits,  # in and out: -inf for what is not kept
    row_stride,
    vocab_size,
    rows,
    samples,
    bitmask,
    num_words,
    temperatures,
    peaks,
    amounts,
    sums,  # of the last level
    prefixes,
    rooms,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    place, block = tl.program_id(0), tl.program_id(1)
    row, sample = tl.load(rows + place), tl.load(samples + place)
    peak = tl.max(of_blocks(peaks, place, vocab_size, float("-inf"), BLOCK, BLOCKS), 0)
    amount = tl.load(amounts + sample)
    if (amount >= 0) & is_finite(peak):
        limit, room = _descend(
            sums, prefixes, rooms, amount, place, vocab_size, LEVELS, WEIGHTED, BLOCK, BLOCKS
        )
        # Of equally likely tokens the first ones are kept: those of earlier blocks take their room
        blocks = tl.arange(0, BLOCKS)
        at = (place * BLOCKS + blocks) * DIGIT + limit % DIGIT
        room -= tl.sum(tl.load(sums + at, mask=blocks < block, other=0), 0)
        token = block * BLOCK + tl.arange(0, BLOCK)
        value = values(logits, row_stride, vocab_size, row, bitmask, num_words, sample, token)
        distance = distance_of(value, peak, tl.load(temperatures + sample))
        bits = distance.to(tl.int32, bitcast=True)
        mass = weight_of(distance, 0.0) if WEIGHTED else tl.full([BLOCK], 1, tl.int64)
        mass = tl.where(bits == limit, mass, 0)
        before = tl.cumsum(mass, 0) - mass
        dropped = (bits > limit) | ((bits == limit) & (before >= room))
        tl.store(logits + row * row_stride + token, float("-inf"), mask=dropped & (token < vocab_size))


def keep_likeliest(
    read: tuple[object, ...],
    amounts: torch.Tensor,
    grid: tuple[int, int],
    *,
    weighted: bool,
    block: int,
    blocks: int,
) -> None:
    """For `ramet.kernels.triton.sampling.Distributions.keep_likeliest`.

    Args:
        read: what `_count_digits` and `_drop` read before ``amounts``.
        amounts: ``[num_samples]`` float64.
        grid: rows, and blocks that a row has.
        weighted: whether amounts are shares of the weight.
        block: tokens per block.
        blocks: room for so many blocks.
    """
    num_rows, device = grid[0], amounts.device
    # What a pass finds is read by the next one, while that writes the sums of its own
    shape = (2, num_rows, blocks, DIGIT.value)
    sums = torch.empty(shape, dtype=torch.int64, device=device)
    prefixes = torch.empty((LEVELS.value + 1, num_rows), dtype=torch.int32, device=device)
    rooms = torch.empty((LEVELS.value + 1, num_rows), dtype=torch.int64, device=device)
    constants = {"WEIGHTED": weighted, "BLOCK": block, "BLOCKS": blocks}
    for level in range(LEVELS.value):
        found = (sums[1 - level % 2], sums[level % 2], prefixes, rooms, level)
        _count_digits[grid](*read, amounts, *found, CHUNK=CHUNK, **constants)
    _drop[grid](*read, amounts, sums[1 - LEVELS.value % 2], prefixes, rooms, num_warps=8, **constants)
