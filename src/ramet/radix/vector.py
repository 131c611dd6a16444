"""A growable array of int32: tokens and slots of tree nodes, read as NumPy views without copying."""

from __future__ import annotations

import numpy as np

from ramet.model_io import Int32Array


class Int32Vector:
    """An array that grows at its end in amortised constant time."""

    __slots__ = ("_buffer", "_length")

    def __init__(self, values: Int32Array) -> None:
        self._buffer = np.array(values, dtype=np.int32)
        self._length = len(self._buffer)

    def __len__(self) -> int:
        return self._length

    @property
    def view(self) -> Int32Array:
        """The values. Valid until the next change; must not be written to."""
        return self._buffer[: self._length]

    def extend(self, values: Int32Array) -> None:
        needed = self._length + len(values)
        if needed > len(self._buffer):
            grown = np.empty(max(needed, 2 * len(self._buffer), 16), dtype=np.int32)
            grown[: self._length] = self.view
            self._buffer = grown
        self._buffer[self._length : needed] = values
        self._length = needed

    def set_last(self, value: int) -> None:
        self._buffer[self._length - 1] = value

    def prepend(self, values: Int32Array) -> None:
        self._buffer = np.concatenate([values, self.view])
        self._length = len(self._buffer)

    def split(self, index: int) -> Int32Vector:
        """Cut off and return the first ``index`` values; this vector keeps the rest."""
        assert 0 < index < self._length, (index, self._length)
        head = Int32Vector(self._buffer[:index])
        self._buffer = self._buffer[index : self._length].copy()
        self._length = len(self._buffer)
        return head


def common_prefix_length(a: Int32Array, b: Int32Array) -> int:
    """How many leading values of two arrays are equal."""
    length = min(len(a), len(b))
    if length == 0 or a[0] != b[0]:
        return 0
    differs = a[:length] != b[:length]
    first = int(differs.argmax())
    return first if differs[first] else length
