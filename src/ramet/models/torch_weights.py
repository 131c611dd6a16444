"""Stored tensors on the device where torch computes with them, in the dtype of the model.

Each tensor of a model is allocated there once, at its full size, and filled in pieces; layers that are
stacked fill their rows of one tensor. Beside the weights the device holds one piece at a time, and the host
one staging buffer, however large the model is.

Must not know: models, files.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ramet.models.dummy_weights import DummyWeights
from ramet.models.stored import StoredTensor, StoredWeights, as_float32

logger = logging.getLogger(__name__)

READERS = 8
"""Threads: one alone waits for pages of a file, or decodes blocks, far longer than a device takes to copy."""

READER_BYTES = 4 * 2**20
"""What a reader reads at a time. A piece is what all of them do."""

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class _Filling(Protocol):
    """Where the values of tensors come from."""

    def fill(self, name: str, target: torch.Tensor) -> None:
        """Put the values of a tensor into one of its shape: contiguous, of any float dtype and device."""
        ...


class TensorLoader:
    """Makes the tensors of a model on its device."""

    def __init__(
        self,
        weights: StoredWeights,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """
        Args:
            weights: what the tensors hold; of `DummyWeights` the distribution, drawn on the device itself.
            shapes: of all of them, by name (`ramet.models.tensor_shapes`).
            dtype, device: of the tensors made.
        """
        self._shapes = shapes
        self._dtype = dtype
        self._device = device
        self._filling: _Filling = (
            _Drawn(weights) if isinstance(weights, DummyWeights) else _Staged(weights, shapes, device)
        )

    def load(self, *names: str) -> torch.Tensor:
        """A tensor, or several that agree but for their first dimension, stacked along it.

        Raises:
            CorruptWeights: a tensor cannot be read.
            UnsupportedModel: nor can its type.
        """
        shapes = [self._shapes[name] for name in names]
        rows = [shape[0] for shape in shapes]
        stacked = torch.empty((sum(rows), *shapes[0][1:]), dtype=self._dtype, device=self._device)
        for name, part in zip(names, torch.split(stacked, rows), strict=True):
            self._filling.fill(name, part)
        return stacked


class _Drawn:
    """Random values, the same ones for a name each time, but others on another kind of device."""

    def __init__(self, weights: DummyWeights) -> None:
        self._weights = weights

    def fill(self, name: str, target: torch.Tensor) -> None:
        generator = torch.Generator(target.device).manual_seed(zlib.crc32(name.encode()))
        mean, deviation = self._weights.distribution(name)
        target.normal_(mean, deviation, generator=generator)


class _Staged:
    """Values of a checkpoint, piece by piece through a buffer that the device reads at full speed."""

    def __init__(
        self, weights: StoredWeights, shapes: Mapping[str, tuple[int, ...]], device: torch.device
    ) -> None:
        self._weights = weights
        self._reader_bytes = max(READER_BYTES, *(4 * shape[-1] for shape in shapes.values()))
        self._staging = torch.empty(
            READERS * self._reader_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda"
        )
        self._bytes = self._staging.numpy()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ramet-weights")
        self._unread = set(shapes)
        self._decoded: Counter[str] = Counter()  # bytes in the file and made of them, of quantized tensors

    def fill(self, name: str, target: torch.Tensor) -> None:
        stored = self._weights.stored(name)
        assert stored.shape == target.shape, f"{name} is {stored.shape}, the config says {target.shape}"
        rows, width = len(stored.data), stored.shape[-1]
        matrix = target.view(rows, width)
        dtype = _DTYPES.get(stored.type, torch.float32)
        row_bytes = width * dtype.itemsize
        piece_rows = READERS * (self._reader_bytes // row_bytes)
        for begin in range(0, rows, piece_rows):
            end = min(begin + piece_rows, rows)
            self._read(stored, begin, end, row_bytes)
            staged = self._staging[: (end - begin) * row_bytes].view(dtype).view(end - begin, width)
            # The copy to the device has ended when `to` returns: the buffer is free. Converted over there.
            matrix[begin:end].copy_(staged.to(target.device))
        self._report(name, stored, target)

    def _read(self, stored: StoredTensor, begin: int, end: int, row_bytes: int) -> None:
        """Rows ``begin .. end - 1``, decoded, into the buffer."""
        reader_rows = self._reader_bytes // row_bytes

        def read(first: int) -> None:
            last = min(first + reader_rows, end)
            into = self._bytes[(first - begin) * row_bytes : (last - begin) * row_bytes]
            np.copyto(into.reshape(last - first, row_bytes), _values(stored, first, last))

        for _ in self._readers.map(read, range(begin, end, reader_rows)):
            pass  # raises what a reader raised

    def _report(self, name: str, stored: StoredTensor, target: torch.Tensor) -> None:
        """Say, after the last tensor, what became larger than it is in the file."""
        self._unread.discard(name)
        if stored.type not in _DTYPES:
            self._decoded.update(stored=stored.data.nbytes, made=target.nbytes)
        if self._decoded and not self._unread:
            logger.info(
                "decoded quantized weights one tensor at a time: %.1f MiB in the file, %.1f MiB in %s on %s",
                self._decoded["stored"] / 2**20,
                self._decoded["made"] / 2**20,
                str(target.dtype).removeprefix("torch."),
                target.device,
            )


def _values(stored: StoredTensor, first: int, last: int) -> NDArray[np.uint8]:
    """The bytes ``[rows, bytes per row]`` of some rows: blocks as float32, all else as it is stored."""
    data = stored.data[first:last]
    if stored.type in _DTYPES:
        return data
    rows = StoredTensor((last - first, stored.shape[-1]), stored.type, data)
    return as_float32(rows).view(np.uint8)
