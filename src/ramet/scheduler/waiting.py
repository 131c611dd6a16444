"""Requests that wait to be admitted: by priority, and within one priority in order of arrival."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from ramet.radix import PrefixCache
from ramet.scheduler.policy import Policy
from ramet.scheduler.request import Request


class WaitingQueue:
    """Ordered by priority first; a policy orders the requests of one priority."""

    def __init__(self, policy: Policy, cache: PrefixCache) -> None:
        self._policy = policy
        self._cache = cache
        self._by_priority: dict[int, OrderedDict[str, Request]] = {}  # none of them is empty
        self._priorities: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._priorities)

    def __iter__(self) -> Iterator[str]:
        return iter(self._priorities)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._priorities

    def get(self, request_id: str) -> Request | None:
        priority = self._priorities.get(request_id)
        return None if priority is None else self._by_priority[priority][request_id]

    def append(self, request: Request) -> None:
        """Add a request behind those of its priority."""
        self._priorities[request.request_id] = request.priority
        self._by_priority.setdefault(request.priority, OrderedDict())[request.request_id] = request

    def append_first(self, request: Request) -> None:
        """Add a request before those of its priority."""
        self.append(request)
        self._by_priority[request.priority].move_to_end(request.request_id, last=False)

    def remove(self, request_id: str) -> None:
        """Remove a request, if it waits."""
        priority = self._priorities.pop(request_id, None)
        if priority is not None:
            group = self._by_priority[priority]
            del group[request_id]
            if not group:
                del self._by_priority[priority]

    def in_order(self, step: int) -> Iterator[Request]:
        """Who is admitted next. Requests may be removed meanwhile."""
        for priority in sorted(self._by_priority):
            yield from self._policy(list(self._by_priority[priority].values()), self._cache, step)
