"""Weights as a checkpoint stores them: the bytes of each tensor and the name of their type.

Whoever computes decides what becomes of them: the torch models take tensors (`ramet.models.torch_weights`),
native kernels pack the bytes into a layout of their own. Invariant: ``data`` holds the whole tensor, one row
after the other, each in the format that ``type`` names. Must not know: torch, files, models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol, TypeAlias

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

FLOAT_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element of the types that are not quantized in blocks."""

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with (steps done, steps in all) while a model loads."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """One tensor, not decoded.

    Attributes:
        shape: ``(outputs, inputs)`` of a matrix, ``(size,)`` of a vector.
        type: its GGML name, such as "F32", "BF16" or "Q4_1".
        data: ``[rows, bytes per row]``, little-endian; rows are all dimensions but the last, a vector is one
            row. Contiguous, but often read-only and not aligned: it may lie on the map of a file, which
            stays open as long as the array lives.
    """

    shape: tuple[int, ...]
    type: str
    data: NDArray[np.uint8]

    @classmethod
    def of(cls, shape: tuple[int, ...], kind: str, raw: NDArray[np.uint8]) -> StoredTensor:
        """From the tensor's bytes ``[num_bytes]``. No dimension may be zero."""
        return cls(shape, kind, raw.reshape(prod(shape[:-1]), -1))


class StoredWeights(Protocol):
    """Tensors of a checkpoint under their Hugging Face names, such as ``model.norm.weight``.

    Each has the shape that the model's configuration says; what reads the files checks it.
    """

    def names(self) -> Iterable[str]: ...

    def stored(self, name: str) -> StoredTensor:
        """The tensor as the file has it, rows in the order of Hugging Face.

        Raises:
            CorruptWeights: there is no such tensor, or it is damaged.
            UnsupportedModel: its type cannot be read.
        """
        ...


def as_float32(stored: StoredTensor) -> NDArray[np.float32]:
    """The tensor's values, a new array of ``stored.shape``."""
    values: NDArray[np.float32]
    match stored.type:
        case "F32":
            values = stored.data.view("<f4").astype(np.float32)
        case "F16":
            values = stored.data.view("<f2").astype(np.float32)
        case "BF16":  # the upper half of a float32
            values = (stored.data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        case blocks:
            values = dequantize(stored.data, GGMLQuantizationType[blocks])
    return values.reshape(stored.shape)
