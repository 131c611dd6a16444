"""A growable array of int32: tokens and slots of tree nodes, read as NumPy views without copying."""

from __future__ import annotations

import numpy as np

from ramet.model_io import Int32Array


class Int32Vector:
    """An array that grows at its end in amortised constant time.

    ``view`` holds the values. It is valid until the next change, and must not be written to.
    """

    __slots__ = ("_buffer", "view")

    def __init__(self, values: Int32Array) -> None:
        self.view = self._buffer = np.array(values, dtype=np.int32)

    def append(self, value: int) -> None:
        length = len(self.view)
        if length == len(self._buffer):
            self._buffer = np.empty(max(2 * length, 16), dtype=np.int32)
            self._buffer[:length] = self.view
        self._buffer[length] = value
        self.view = self._buffer[: length + 1]

    def set_last(self, value: int) -> None:
        self.view[-1] = value

    def prepend(self, values: Int32Array) -> None:
        self.view = self._buffer = np.concatenate([values, self.view])

    def split(self, index: int) -> Int32Vector:
        """Cut off and return the first ``index`` values; this vector keeps the rest."""
        assert 0 < index < len(self.view), (index, len(self.view))
        head = Int32Vector(self.view[:index])
        self.view = self._buffer = self.view[index:].copy()
        return head


def common_prefix_length(a: Int32Array, b: Int32Array) -> int:
    """How many leading values of two arrays are equal."""
    length = min(len(a), len(b))
    if length == 0 or a[0] != b[0]:
        return 0
    differs = a[:length] != b[:length]
    first = int(differs.argmax())
    return first if differs[first] else length
