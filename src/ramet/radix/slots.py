"""The free slots of the KV pool. A slot holds the keys and values of one token in every layer.

Attention reads a context slot by slot, and neighbouring slots are neighbours in memory. So slots are handed
out in *runs*: what is appended gets the slots behind the last one while they are free, and everything else
begins in a run of which nothing is used. The room that this leaves is taken too once no whole run is left.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from ramet.model_io import Int32Array

RUN_SLOTS = 32


class SlotAllocator:
    """Hands out slot numbers, neighbours where it can."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.num_free = num_slots
        num_runs = -(-num_slots // RUN_SLOTS)
        self._flags = bytearray(num_runs * RUN_SLOTS)  # whether a slot is free: for looking at one slot ...
        self._is_free = np.frombuffer(self._flags, dtype=np.bool_)  # ... and at many
        self._is_free[:num_slots] = True
        self._free_in_run: list[int] = self._is_free.reshape(-1, RUN_SLOTS).sum(axis=1).tolist()
        # A stack of the runs that are free, the first on top, and a queue of those that are free in part:
        # whoever left room behind it long ago needs it least.
        self._whole = dict.fromkeys(reversed(range(num_slots // RUN_SLOTS)))
        self._partial = OrderedDict.fromkeys(range(len(self._whole), num_runs))

    def allocate(self, count: int, after: int = -1) -> Int32Array:
        """``count`` free slots, beginning with what is free of the run behind the slot ``after``."""
        assert 0 <= count <= self.num_free, (count, self.num_free)  # there must be as many
        taken = np.empty(count, dtype=np.int32)
        filled = 0
        while filled < count and self._take_behind(after):
            after += 1
            taken[filled] = after
            filled += 1
        while filled < count:
            run, _ = self._whole.popitem() if self._whole else self._partial.popitem(last=False)
            free_here = self._is_free[run * RUN_SLOTS : (run + 1) * RUN_SLOTS]
            places = free_here.nonzero()[0][: count - filled]
            free_here[places] = False
            taken[filled : filled + len(places)] = places + run * RUN_SLOTS
            filled += len(places)
            self._free_in_run[run] -= len(places)
            if self._free_in_run[run]:
                self._partial[run] = None
            self.num_free -= len(places)
        return taken

    def allocate_one(self, after: int) -> int:
        """`allocate` of a single slot."""
        return after + 1 if self._take_behind(after) else self.allocate(1).item()

    def free(self, slots: Int32Array) -> None:
        """Give slots back."""
        assert not self._is_free[slots].any(), "a slot is given back twice"
        self._is_free[slots] = True
        self.num_free += len(slots)
        runs, counts = np.unique(slots // RUN_SLOTS, return_counts=True)
        for run, count in zip(runs[::-1].tolist(), counts[::-1].tolist(), strict=True):
            self._count(run, count)

    def free_slots(self) -> Int32Array:
        """The free slots, for checks."""
        return np.flatnonzero(self._is_free).astype(np.int32)

    def _take_behind(self, slot: int) -> bool:
        """Take the slot behind one, if it belongs to the same run and is free."""
        behind = slot + 1
        if behind % RUN_SLOTS == 0 or not self._flags[behind]:
            return False
        self._flags[behind] = False
        self.num_free -= 1
        self._count(behind // RUN_SLOTS, -1)
        return True

    def _count(self, run: int, change: int) -> None:
        """So many more slots of a run are free."""
        before = self._free_in_run[run]
        now = self._free_in_run[run] = before + change
        if 0 < before < RUN_SLOTS and 0 < now < RUN_SLOTS:
            return
        self._whole.pop(run, None)
        self._partial.pop(run, None)
        if now:
            (self._whole if now == RUN_SLOTS else self._partial)[run] = None
