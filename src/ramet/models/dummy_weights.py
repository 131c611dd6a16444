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
_DEVIATION = 0.02
_ONE = 0x3F80  # in bfloat16


class DummyWeights:
    """Satisfies `StoredWeights`, in bfloat16. Always the same.

    What computes on a device may draw values there instead, from the `distribution` of each tensor.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = tensor_shapes(config)
        drawn = np.random.default_rng(0).standard_normal(_BLOCK, dtype=np.float32) * _DEVIATION
        self._block = (drawn.view(np.uint32) >> 16).astype("<u2")

    def names(self) -> Iterable[str]:
        return tuple(self._shapes)

    def distribution(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a tensor's values: norms are ones, all else is normal."""
        return (1.0, 0.0) if "norm" in name else (0.0, _DEVIATION)

    def stored(self, name: str) -> StoredTensor:
        shape = self._shapes.get(name)
        if shape is None:
            raise CorruptWeights(f"a model of this config has no tensor {name!r}")
        if self.distribution(name) == (1.0, 0.0):
            values = np.full(shape, _ONE, dtype="<u2")
        else:
            begin = list(self._shapes).index(name) * 7919 % _BLOCK  # each tensor begins elsewhere
            values = np.resize(np.roll(self._block, -begin), prod(shape))
        return StoredTensor.of(shape, "BF16", values.view(np.uint8).reshape(-1))
