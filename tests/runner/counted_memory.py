"""A device whose memory is counted: that of the tensors torch makes while a test runs."""

from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CountedMemory(TorchDispatchMode):
    """Satisfies `MemoryMeter` while it is entered as a context: counts tensors of one type of device.

    What exists before does not count, unless an operation returns a view of it. As on a GPU, tensors for
    which there is no room are an error. What an operation allocates and frees inside itself is not seen.
    """

    def __init__(self, device_type: str = "cpu", total: int = 2**40) -> None:
        super().__init__()
        self._device_type = device_type
        self._total = total
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self._highest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == self._device_type:
                storage = leaf.untyped_storage()
                self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        allocated = self.allocated()
        self._highest = max(self._highest, allocated)
        if allocated > self._total:
            raise torch.OutOfMemoryError(f"{allocated} bytes of {self._total}")
        return made

    def restart(self) -> None:
        self._highest = self.allocated()

    def allocated(self) -> int:
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        return sum(size for _, size in self._held.values())

    def highest(self) -> int:
        return self._highest

    def free(self) -> int:
        return self._total - self.allocated()
