"""The free list of the KV pool. A slot holds the keys and values of one token in every layer."""

from __future__ import annotations

import numpy as np

from ramet.model_io import Int32Array


class SlotAllocator:
    """Hands out slot numbers from a stack, many at a time."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._stack: Int32Array = np.arange(num_slots - 1, -1, -1, dtype=np.int32)
        self._num_free = num_slots

    @property
    def num_free(self) -> int:
        return self._num_free

    def allocate(self, count: int) -> Int32Array:
        """``count`` free slots. There must be as many."""
        assert 0 <= count <= self._num_free, (count, self._num_free)
        begin = self._num_free - count
        taken = self._stack[begin : self._num_free][::-1].copy()
        self._num_free = begin
        return taken

    def free(self, slots: Int32Array) -> None:
        """Give slots back."""
        end = self._num_free + len(slots)
        assert end <= self.num_slots, (end, self.num_slots)
        self._stack[self._num_free : end] = slots
        self._num_free = end

    def free_slots(self) -> Int32Array:
        """The free slots, for checks."""
        return self._stack[: self._num_free].copy()
