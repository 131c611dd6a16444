"""Matrix products whose rows do not depend on their company."""

from __future__ import annotations

import torch
import torch.nn.functional as F

ROW_TILE = 16
"""Rows per matrix product. BLAS picks its kernels, and so its order of summation, by shape: only products
of one fixed shape give a row the same bits in every batch. 16 rows cost about as much as one does.
NOTE: with fewer than 12 output features even the place in the tile may show; models have more."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias`` in row tiles of `ROW_TILE`, the last one padded with zeros.

    Args:
        x: ``[num_rows, in_features]``
        weight: ``[out_features, in_features]`` of the same dtype
        bias: ``[out_features]``

    Returns:
        ``[num_rows, out_features]``. On CUDA this is a plain product: there the rows of different batches
        may differ in their last bits.
    """
    if x.is_cuda:
        return F.linear(x, weight, bias)
    num_rows, in_features = x.shape
    num_tiles = -(-num_rows // ROW_TILE)
    if num_rows % ROW_TILE:
        padded = x.new_zeros(num_tiles * ROW_TILE, in_features)
        padded[:num_rows] = x
        x = padded
    tiles = x.reshape(num_tiles, ROW_TILE, in_features)
    product = torch.bmm(tiles, weight.t().expand(num_tiles, -1, -1))
    rows = product.view(num_tiles * ROW_TILE, weight.shape[0])[:num_rows]
    return rows if bias is None else rows + bias
