"""Matrix products whose rows do not depend on their company.

A program computes one tile of the result, for which it walks the whole of the inner dimension in steps of
one size. The tile is as tall for one row as for thousands, and how wide it is depends on the weights alone:
so a row is multiplied by the same instructions, in the same order, in whatever batch it is and wherever it
stands there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK_M = 64  # the least that fills an instruction of Hopper's tensor cores
PROGRAMS = 128  # that one tile of rows should keep busy; about the multiprocessors of a large GPU


@triton.jit(do_not_specialize=["num_rows"])  # one program for all of them
def _linear(
    x,  # [num_rows, in_features]
    weight,  # [out_features, in_features]
    bias,  # [out_features], if BIAS
    out,  # [num_rows, out_features]
    num_rows,
    in_features,
    out_features,
    x_row_stride,
    BIAS: tl.constexpr,
    EVEN: tl.constexpr,  # in_features is a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # Neighbouring programs read the same weights
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows, in_columns = row < num_rows, column < out_features
    k = tl.arange(0, BLOCK_K)
    left = x + row.to(tl.int64)[:, None] * x_row_stride + k[None, :]
    right = weight + column.to(tl.int64)[None, :] * in_features + k[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, in_features, BLOCK_K):
        left_mask, right_mask = in_rows[:, None], in_columns[None, :]
        if not EVEN:
            left_mask = left_mask & (first + k < in_features)[None, :]
            right_mask = right_mask & (first + k < in_features)[:, None]
        a = tl.load(left, mask=left_mask, other=0.0)
        b = tl.load(right, mask=right_mask, other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        left += BLOCK_K
        right += BLOCK_K
    if BIAS:
        total += tl.load(bias + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
    at = row.to(tl.int64)[:, None] * out_features + column[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=in_rows[:, None] & in_columns[None, :])


def tile_options(out_features: int, itemsize: int) -> dict[str, int]:
    """The tile for a weight matrix: as wide as leaves enough programs to read it with few rows."""
    block_n = next((width for width in (128, 64) if out_features >= width * PROGRAMS), 32)
    return {
        "BLOCK_M": BLOCK_M,
        "BLOCK_N": block_n,
        "BLOCK_K": 256 // itemsize,
        "num_warps": 4,
        "num_stages": 4,
    }


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias``, summed in float32 and rounded once.

    Args:
        x: ``[num_rows, in_features]``, rows contiguous.
        weight: ``[out_features, in_features]`` of the same dtype, contiguous.
        bias: ``[out_features]``

    Returns:
        ``[num_rows, out_features]``. The bits of a row depend on nothing but that row.
    """
    num_rows, in_features = x.shape
    out_features = weight.shape[0]
    out = torch.empty(num_rows, out_features, dtype=x.dtype, device=x.device)
    options = tile_options(out_features, x.itemsize)
    grid = (triton.cdiv(num_rows, BLOCK_M), triton.cdiv(out_features, options["BLOCK_N"]))
    _linear[grid](
        x,
        weight,
        weight if bias is None else bias,
        out,
        num_rows,
        in_features,
        out_features,
        x.stride(0),
        BIAS=bias is not None,
        EVEN=in_features % options["BLOCK_K"] == 0,
        PRECISION="ieee",
        **options,
    )
    return out
