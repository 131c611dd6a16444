"""Random weights of any configuration: for benchmarks of a model's shape, without its files."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np

from ramet.errors import CorruptWeights
from ramet.models.config import ModelConfig
from ramet.models.stored import StoredTensor
from ramet.models.tensor_shapes import tensor_shapes

_BLOCK = 1_048_573  # values drawn once and repeated; a prime, so that no two rows of a matrix are alike
_SCALE = 0.02
_ONE = 0x3F80  # in bfloat16


class DummyWeights:
    """Satisfies `StoredWeights`, in bfloat16: norms are ones, all else is normal. Always the same."""

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = tensor_shapes(config)
        drawn = np.random.default_rng(0).standard_normal(_BLOCK, dtype=np.float32) * _SCALE
        self._block = (drawn.view(np.uint32) >> 16).astype("<u2")

    def names(self) -> Iterable[str]:
        return tuple(self._shapes)

    def stored(self, name: str) -> StoredTensor:
        shape = self._shapes.get(name)
        if shape is None:
            raise CorruptWeights(f"a model of this config has no tensor {name!r}")
        if "norm" in name:
            values = np.full(shape, _ONE, dtype="<u2")
        else:
            begin = list(self._shapes).index(name) * 7919 % _BLOCK  # each tensor begins elsewhere
            values = np.resize(np.roll(self._block, -begin), prod(shape))
        return StoredTensor.of(shape, "BF16", values.view(np.uint8).reshape(-1))
