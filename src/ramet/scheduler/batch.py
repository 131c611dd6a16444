"""What one step computes: spans of tree nodes in depth-first order, and the points where logits are wanted.

A `Batch` is a decision in terms of nodes and requests; `ramet.engine.inputs` turns it into arrays. It is
built by asking, for one request after another, for what its path still lacks; work that an earlier
request of the same step asked for already is shared and costs nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec
import numpy as np

from ramet.model_io import Int32Array
from ramet.radix import KVNode, is_computed
from ramet.scheduler.request import Request


class Visit:
    """A node in depth-first order, and its rows: a stretch of tokens to compute, and probes before it.

    A probe is a token whose KV is there, computed once more because its logits are wanted. A node without
    rows is visited for those below it. Rows are numbered when the batch is built: those of the node are
    ``first_row .. own_end_row - 1``, those at and below it ``first_row .. end_row - 1``.
    """

    __slots__ = ("begin", "end", "end_row", "first_row", "node", "own_end_row", "parent", "probes")

    def __init__(self, node: KVNode) -> None:
        self.node = node
        self.begin = self.end = node.payload.num_computed  # the stretch, as offsets into the node
        self.probes: Sequence[int] = ()  # offsets, ascending; known once the batch is built
        self.parent: Visit | None = None  # None at the top
        self.first_row = self.own_end_row = self.end_row = 0

    @property
    def positions(self) -> Sequence[int]:
        """The positions of the rows, ascending."""
        start = self.node.start
        stretch = range(start + self.begin, start + self.end)
        return [*(start + offset for offset in self.probes), *stretch] if self.probes else stretch

    def take(self, values: Int32Array) -> Int32Array:
        """Of values for the tokens of the node, those for its rows."""
        stretch = values[self.begin : self.end]
        return np.concatenate((values[list(self.probes)], stretch)) if self.probes else stretch

    def row_of(self, position: int) -> int:
        """The row of the token at a position."""
        offset = position - self.node.start
        if offset < self.begin:
            return self.first_row + bisect_left(self.probes, offset)
        return self.first_row + len(self.probes) + offset - self.begin


class LogitsPoint:
    """A row whose logits a request wants: to sample its next token, or to score a known one."""

    __slots__ = ("position", "request", "row", "visit")

    def __init__(self, request: Request, visit: Visit, position: int) -> None:
        self.request = request
        self.visit = visit
        self.position = position
        self.row = -1  # known once the batch is built


class Batch(msgspec.Struct, frozen=True, eq=False):
    """One step."""

    visits: list[Visit]
    num_rows: int
    num_prompt_rows: int
    requests: list[Request]  # all that take part
    samples: list[LogitsPoint]
    scores: list[LogitsPoint]
    compared: list[LogitsPoint]  # the scores that want alternatives: drawn too
    cached: list[Request]  # only want their prompt computed, and have it then
    void: set[int] = msgspec.field(default_factory=set)  # samples that turned out not to be wanted

    def computed(self) -> Iterator[tuple[KVNode, int]]:
        """Every node that gains KV, parents first, and how many of its tokens will then have it."""
        for visit in self.visits:
            if visit.end > visit.begin:
                yield visit.node, visit.end


class BatchBuilder:
    """Collects the work of one step under a budget of rows."""

    def __init__(self, max_rows: int) -> None:
        self.budget = max_rows
        self._max_rows = max_rows
        self._num_prompt_rows = 0
        self._visits: dict[KVNode, Visit] = {}  # of the nodes that have rows, and of all above them
        self._tops: list[Visit] = []
        self._below: dict[Visit, list[Visit]] = {}
        self._probes: dict[Visit, set[int]] = {}
        self._requests: list[Request] = []
        self._samples: list[LogitsPoint] = []
        self._scores: list[LogitsPoint] = []
        self._cached: list[LogitsPoint] = []

    def add(self, request: Request) -> None:
        """Plan as much of a request's work as the budget allows. Its path must be complete."""
        path, cursor = request.path, request.logits_cursor
        assert path is not None and path.length == request.num_path_tokens, (path, request.num_path_tokens)
        node = path.tail
        if self.budget == 0 or cursor >= node.end:  # or all it wants is in steps that were launched
            return
        self._requests.append(request)
        nodes = [node]  # with pending tokens, or from the logits cursor on
        while (above := node.parent) is not None and (node.start > cursor or not is_computed(above)):
            nodes.append(above)
            node = above
        if request.score_from is not None:
            points = self._scores
        else:
            points = self._samples if request.params.max_tokens > 0 else self._cached
        for node in reversed(nodes):
            if not self._add_node(request, node, points):
                break

    def _add_node(self, request: Request, node: KVNode, points: list[LogitsPoint]) -> bool:
        """Plan a node's part of the work, in order of position; whether the budget sufficed."""
        visit = self._visits.get(node)
        if visit is None:
            if self.budget == 0:
                return False
            visit = self._visit(node)
        start, cursor = node.start, request.logits_cursor
        pending = start + visit.begin
        if cursor < pending:
            probes = self._probes.setdefault(visit, set())
            for position in range(max(cursor, start), pending):
                if position - start not in probes:
                    if self.budget == 0:
                        return False
                    probes.add(position - start)
                    self._spend(request, position, 1)
                points.append(LogitsPoint(request, visit, position))
            cursor = pending
        planned, end = start + visit.end, node.end
        if end - planned > self.budget:
            end = planned + self.budget
        if planned < end:
            self._spend(request, planned, end - planned)
            visit.end = end - start
        for position in range(cursor, end):
            points.append(LogitsPoint(request, visit, position))
        return end == node.end

    def _visit(self, node: KVNode) -> Visit:
        """Plan to visit a node, and all above it that are not visited yet."""
        lowest = visit = self._visits[node] = Visit(node)
        while (above := node.parent) is not None and not above.is_root:
            known = self._visits.get(above)
            visit.parent = known or Visit(above)
            self._below.setdefault(visit.parent, []).append(visit)
            if known is not None:
                return lowest
            visit, node = visit.parent, above
            self._visits[node] = visit
        self._tops.append(visit)
        return lowest

    def _spend(self, request: Request, position: int, count: int) -> None:
        self.budget -= count
        if position < request.num_prompt_tokens:
            self._num_prompt_rows += min(count, request.num_prompt_tokens - position)

    def build(self) -> Batch | None:
        """Lay the rows out in depth-first order; ``None`` if there is nothing to do."""
        if self.budget == self._max_rows:
            return None
        for visit, probes in self._probes.items():
            visit.probes = sorted(probes)
        visits = self._depth_first()
        for point in chain(self._samples, self._scores):
            point.row = point.visit.row_of(point.position)
        return Batch(
            visits,
            self._max_rows - self.budget,
            self._num_prompt_rows,
            self._requests,
            self._samples,
            self._scores,
            [point for point in self._scores if point.request.params.logprobs],
            [point.request for point in self._cached],
        )

    def _depth_first(self) -> list[Visit]:
        visits: list[Visit] = []
        num_rows = 0
        stack = self._tops[::-1]
        while stack:
            visit = stack.pop()
            visits.append(visit)
            visit.first_row = num_rows
            num_rows += len(visit.probes) + visit.end - visit.begin
            visit.own_end_row = visit.end_row = num_rows
            below = self._below.get(visit)
            if below is not None:
                stack += reversed(below)
        for visit in reversed(visits):  # rows ascend: the last visit below a node has the last of its rows
            if visit.parent is not None and visit.parent.end_row < visit.end_row:
                visit.parent.end_row = visit.end_row
        return visits
