"""What a decoder layer does between its matrix products, each in one pass over its rows.

A program computes a row, or the share of it that belongs to one KV head, in float32; nothing depends on other
rows. Where the torch reference rounds to the dtype of the rows, so do these.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SILU_BLOCK = 1024


@triton.jit
def _norm(
    x,  # [num_rows, SIZE]
    delta,  # the same, if ADD
    weight,  # [SIZE]
    total,  # out: x + delta, if ADD
    out,
    eps,
    ADD: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.arange(0, BLOCK)
    mask = i < SIZE
    at = tl.program_id(0).to(tl.int64) * SIZE + i
    row = tl.load(x + at, mask=mask, other=0.0)
    wide = row.to(tl.float32)
    if ADD:
        wide = (wide + tl.load(delta + at, mask=mask, other=0.0).to(tl.float32)).to(row.dtype).to(tl.float32)
        tl.store(total + at, wide.to(row.dtype), mask=mask)
    scaled = wide * tl.rsqrt(tl.sum(wide * wide) / SIZE + eps)
    by = tl.load(weight + i, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, (scaled.to(row.dtype).to(tl.float32) * by).to(row.dtype), mask=mask)


@triton.jit
def _rotated_heads(
    heads,  # pointers to the first half of each head: [num_heads, half]
    norm,  # [HEAD_DIM], if NORM
    mask,
    d,  # [half]
    cos,
    sin,
    eps,
    NORM: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """The halves of heads, normed and rotated, in the dtype of the heads."""
    first = tl.load(heads, mask=mask, other=0.0)
    second = tl.load(heads + HEAD_DIM // 2, mask=mask, other=0.0)
    dtype = first.dtype
    low, high = first.to(tl.float32), second.to(tl.float32)
    if NORM:
        scale = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / HEAD_DIM + eps)[:, None]
        in_half = d < HEAD_DIM // 2
        low_by = tl.load(norm + d, mask=in_half, other=0.0).to(tl.float32)
        high_by = tl.load(norm + HEAD_DIM // 2 + d, mask=in_half, other=0.0).to(tl.float32)
        low = ((low * scale).to(dtype).to(tl.float32) * low_by[None, :]).to(dtype).to(tl.float32)
        high = ((high * scale).to(dtype).to(tl.float32) * high_by[None, :]).to(dtype).to(tl.float32)
    cos, sin = cos[None, :], sin[None, :]
    return (low * cos - high * sin).to(dtype), (high * cos + low * sin).to(dtype)


@triton.jit
def _is_finite(x):
    return tl.abs(x.to(tl.float32)) < float("inf")


@triton.jit
def _held(x, limit, spoiled, instead, dtype: tl.constexpr):
    """The nearest to ``x`` that a pool of a dtype can hold, or another number if the head is spoiled."""
    return tl.where(spoiled, instead, tl.minimum(tl.maximum(x.to(tl.float32), -limit), limit)).to(dtype)


@triton.jit
def _rotate_and_write(
    qkv,  # [num_rows, (num_heads + 2 * num_kv_heads) * HEAD_DIM]
    cos_sin,  # [num_rows, 2, HEAD_DIM / 2] float32
    slot_ids,  # [num_rows]
    query_norm,  # [HEAD_DIM], if NORM
    key_norm,
    queries,  # out: [num_rows, num_heads, HEAD_DIM]
    keys,  # out: [num_slots, num_kv_heads, HEAD_DIM]
    values,
    eps,
    limit,  # the largest number of the pool's dtype
    qkv_row_stride,
    key_slot_stride,
    value_slot_stride,
    NORM: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    num_kv_heads = tl.num_programs(1)
    half: tl.constexpr = HEAD_DIM // 2
    d = tl.arange(0, BLOCK_HALF)
    in_half = d < half
    cos = tl.load(cos_sin + row * HEAD_DIM + d, mask=in_half, other=0.0)
    sin = tl.load(cos_sin + row * HEAD_DIM + half + d, mask=in_half, other=0.0)
    row_start = qkv + row * qkv_row_stride

    of_group = tl.arange(0, BLOCK_GROUP)
    at = ((kv_head * GROUP + of_group) * HEAD_DIM)[:, None] + d[None, :]
    mask = (of_group < GROUP)[:, None] & in_half[None, :]
    low, high = _rotated_heads(row_start + at, query_norm, mask, d, cos, sin, eps, NORM, HEAD_DIM)
    out = queries + row * (num_kv_heads * GROUP * HEAD_DIM) + at
    tl.store(out, low, mask=mask)
    tl.store(out + half, high, mask=mask)

    at = (kv_head * HEAD_DIM + d)[None, :]
    mask = in_half[None, :]
    new_keys = row_start + num_kv_heads * GROUP * HEAD_DIM + at
    key_low, key_high = _rotated_heads(new_keys, key_norm, mask, d, cos, sin, eps, NORM, HEAD_DIM)
    new_values = new_keys + num_kv_heads * HEAD_DIM
    value_low = tl.load(new_values, mask=mask, other=0.0)
    value_high = tl.load(new_values + half, mask=mask, other=0.0)
    finite = _is_finite(key_low) & _is_finite(key_high) & _is_finite(value_low) & _is_finite(value_high)
    # 0 times infinity would reach rows that give the value no weight: the key speaks for it
    spoiled = tl.min(finite.to(tl.int32)) == 0
    nan: tl.constexpr = float("nan")
    dtype: tl.constexpr = keys.dtype.element_ty
    slot = tl.load(slot_ids + row).to(tl.int64)
    key_out = keys + slot * key_slot_stride + at
    tl.store(key_out, _held(key_low, limit, spoiled, nan, dtype), mask=mask)
    tl.store(key_out + half, _held(key_high, limit, spoiled, nan, dtype), mask=mask)
    value_out = values + slot * value_slot_stride + at
    tl.store(value_out, _held(value_low, limit, spoiled, 0.0, dtype), mask=mask)
    tl.store(value_out + half, _held(value_high, limit, spoiled, 0.0, dtype), mask=mask)


@triton.jit
def _silu_and_multiply(
    gate_up,  # [num_rows, 2 * size]
    out,  # [num_rows, size]
    size,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size
    gate = tl.load(gate_up + row * 2 * size + i, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + i, mask=mask, other=0.0).to(tl.float32)
    # Of a magnitude, so that nothing overflows on the way
    decay = tl.exp(-tl.abs(gate))
    sigmoid = tl.where(gate >= 0, 1.0, decay) / (1.0 + decay)
    tl.store(out + row * size + i, (gate * sigmoid * up).to(out.dtype.element_ty), mask=mask)


def norm_options(size: int) -> dict[str, int]:
    """The block that holds a row of this size, and how many warps share it."""
    block = triton.next_power_of_2(size)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See `ramet.layers.base.Operations.norm`."""
    x = x.contiguous()
    size = x.shape[-1]
    out = torch.empty_like(x)
    grid = (x.numel() // size,)
    _norm[grid](x, x, weight, out, out, eps, ADD=False, SIZE=size, **norm_options(size))
    return out


def add_and_rms_norm(
    hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `ramet.layers.base.Operations.add_and_norm`."""
    hidden, delta = hidden.contiguous(), delta.contiguous()
    size = hidden.shape[-1]
    total, out = torch.empty_like(hidden), torch.empty_like(hidden)
    grid = (hidden.numel() // size,)
    _norm[grid](hidden, delta, weight, total, out, eps, ADD=True, SIZE=size, **norm_options(size))
    return total, out


def head_options(num_heads: int, num_kv_heads: int, head_dim: int) -> dict[str, int]:
    """How a program holds the heads that share a KV head."""
    group = num_heads // num_kv_heads
    block_group, block_half = triton.next_power_of_2(group), triton.next_power_of_2(head_dim // 2)
    return {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "BLOCK_GROUP": block_group,
        "BLOCK_HALF": block_half,
        "num_warps": min(max(block_group * block_half // 256, 1), 8),
    }


def rotate_and_write(
    qkv: torch.Tensor,
    cos_sin: torch.Tensor,
    slot_ids: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_norm: torch.Tensor | None,
    key_norm: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """See `ramet.layers.base.Operations.rotate_and_write`. Of ``qkv``, ``keys`` and ``values`` all dimensions
    but the first must be contiguous."""
    num_rows = qkv.shape[0]
    num_kv_heads, head_dim = keys.shape[1:]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    queries = torch.empty(num_rows, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    normed = query_norm is not None and key_norm is not None
    _rotate_and_write[(num_rows, num_kv_heads)](
        qkv,
        cos_sin,
        slot_ids,
        query_norm if normed else qkv,
        key_norm if normed else qkv,
        queries,
        keys,
        values,
        eps,
        torch.finfo(keys.dtype).max,
        qkv.stride(0),
        keys.stride(0),
        values.stride(0),
        NORM=normed,
        **head_options(num_heads, num_kv_heads, head_dim),
    )
    return queries


def silu_and_multiply(gate_up: torch.Tensor) -> torch.Tensor:
    """See `ramet.layers.base.Operations.silu_and_multiply`."""
    gate_up = gate_up.contiguous()
    num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(num_rows, size, dtype=gate_up.dtype, device=gate_up.device)
    grid = (num_rows, triton.cdiv(size, SILU_BLOCK))
    _silu_and_multiply[grid](gate_up, out, size, BLOCK=SILU_BLOCK)
    return out
