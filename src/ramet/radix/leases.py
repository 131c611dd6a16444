"""Leases: prefixes that stay in the tree until a deadline, although no request holds them.

A lease holds a path as a request does. It is a promise with limits: leases together hold at most half of
the slots, and they give way if the only request there is needs the room. Knows no clock: callers tell the
time.

Invariant: ``num_tokens`` counts each token on leased paths once, however many leases share it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

from ramet.radix.prefix_cache import KVNode, Path, PrefixCache


class Leases:
    """The leases on paths of one `PrefixCache`."""

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._held: dict[KVNode, tuple[Path, float]] = {}  # by tail: the path and its deadline
        # A heap with one entry per lease: (a deadline that may have been extended since, tie breaker, tail)
        self._deadlines: list[tuple[float, int, KVNode]] = []
        self._serial = 0
        self.num_tokens = 0

    @property
    def max_tokens(self) -> int:
        """Most tokens that leases may hold together."""
        return self._cache.num_slots // 2

    def grant(self, path: Path, deadline: float) -> bool:
        """Take over a path, computed whole, until a deadline; a lease it has already is extended.

        False, and the path stays the caller's, if leases would hold too much.
        """
        known = self._held.get(path.tail)
        if known is not None:
            self._cache.release(path)
            path, deadline = known[0], max(known[1], deadline)
        else:
            missing = sum(len(node) for node in _nodes(path) if node.payload.num_leases == 0)
            if self.num_tokens + missing > self.max_tokens:
                return False
            self.num_tokens += missing
            for node in _nodes(path):
                node.payload.num_leases += 1
            self._serial += 1
            heapq.heappush(self._deadlines, (deadline, self._serial, path.tail))
        self._held[path.tail] = path, deadline
        return True

    def drop_next(self, until: float = math.inf) -> bool:
        """Drop the lease that ends first; false if none ends by then."""
        while self._deadlines and self._deadlines[0][0] <= until:
            noted, serial, tail = heapq.heappop(self._deadlines)
            path, deadline = self._held[tail]
            if noted < deadline:
                heapq.heappush(self._deadlines, (deadline, serial, tail))
                continue
            del self._held[tail]
            self._drop(path)
            return True
        return False

    def expire(self, now: float) -> None:
        """Drop those whose deadline has passed."""
        while self.drop_next(now):
            pass

    def clear(self) -> None:
        """Drop all."""
        while self.drop_next():
            pass

    def check(self) -> None:
        """Verify the counters against the leases there are; for tests.

        Raises:
            AssertionError: one is wrong.
        """
        counted: dict[KVNode, int] = {}
        for path, _ in self._held.values():
            for node in _nodes(path):
                counted[node] = counted.get(node, 0) + 1
        for node, count in counted.items():
            assert node.payload.num_leases == count <= node.lock_count, (node, count)
            assert node.payload.num_computed == len(node), f"{node} is leased, but not computed"
        assert self.num_tokens == sum(map(len, counted)) <= self.max_tokens, self.num_tokens

    def _drop(self, path: Path) -> None:
        for node in _nodes(path):
            span = node.payload
            span.num_leases -= 1
            if span.num_leases == 0:
                self.num_tokens -= len(node)
        self._cache.release(path)


def _nodes(path: Path) -> Iterator[KVNode]:
    node: KVNode | None = path.tail
    while node is not None and not node.is_root:
        yield node
        node = node.parent
