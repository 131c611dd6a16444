"""What one step computes: spans of tree nodes in depth-first order, and the points where logits are wanted.

A `Batch` is a decision in terms of nodes and requests; `ramet.engine.inputs` turns it into arrays. It is
built by asking, for one request after another, for what its path still lacks; work that an earlier
request of the same step asked for already is shared and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ramet.model_io import Int32Array
from ramet.radix import KVNode, span_of
from ramet.scheduler.request import Request


@dataclass(slots=True)
class NodeRows:
    """The rows of one node in this step: a stretch of tokens to compute, and probes before it.

    A probe is a token whose KV is there, computed once more because its logits are wanted.
    """

    node: KVNode
    begin: int  # the stretch, as offsets into the node
    end: int
    probes: dict[int, int] = field(default_factory=dict)  # offset -> its place, known once the batch is built
    first_row: int = 0

    @property
    def num_rows(self) -> int:
        return len(self.probes) + self.end - self.begin

    @property
    def positions(self) -> Sequence[int]:
        """The positions of the rows, ascending. Known once the batch is built, like the next."""
        start = self.node.start
        stretch = range(start + self.begin, start + self.end)
        return [*(start + offset for offset in self.probes), *stretch] if self.probes else stretch

    def take(self, values: Int32Array) -> Int32Array:
        """Of values for the tokens of the node, those for its rows."""
        stretch = values[self.begin : self.end]
        return np.concatenate((values[[*self.probes]], stretch)) if self.probes else stretch

    def row_of(self, offset: int) -> int:
        """The row of a token, known once the batch is built."""
        if offset >= self.begin:
            return self.first_row + len(self.probes) + offset - self.begin
        return self.first_row + self.probes[offset]


@dataclass(slots=True)
class Visit:
    """A node in depth-first order. The rows at and below it are ``first_row .. end_row - 1``."""

    node: KVNode
    rows: NodeRows | None  # None if only nodes below it have rows
    parent: int  # index of the parent's visit; -1 at the top
    first_row: int
    end_row: int


class LogitsPoint(NamedTuple):
    """A row whose logits a request wants: to sample its next token, or to score a known one."""

    request: Request
    row: int
    position: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One step."""

    visits: list[Visit]
    num_rows: int
    num_prompt_rows: int
    requests: list[Request]  # all that take part
    samples: list[LogitsPoint] = field(default_factory=list)
    scores: list[LogitsPoint] = field(default_factory=list)
    compared: list[LogitsPoint] = field(default_factory=list)  # the scores that want alternatives: drawn too
    cached: list[Request] = field(default_factory=list)  # only want their prompt computed, and have it then
    void: set[int] = field(default_factory=set)  # samples that turned out not to be wanted

    def computed(self) -> Iterator[tuple[KVNode, int]]:
        """Every node that gains KV, parents first, and how many of its tokens will then have it."""
        for visit in self.visits:
            if visit.rows is not None and visit.rows.end > visit.rows.begin:
                yield visit.node, visit.rows.end


class BatchBuilder:
    """Collects the work of one step under a budget of rows."""

    def __init__(self, max_rows: int) -> None:
        self.budget = max_rows
        self._num_prompt_rows = 0
        self._rows: dict[KVNode, NodeRows] = {}
        self._points: list[tuple[Request, NodeRows, int]] = []  # whose logits: request, node, offset into it
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        """Plan as much of a request's work as the budget allows. Its path must be complete."""
        path = request.path
        assert path is not None and path.length == request.num_path_tokens, (path, request.num_path_tokens)
        self._requests.append(request)
        nodes = [path.tail]  # with pending tokens, or from the logits cursor on
        while (above := nodes[-1].parent) is not None and not above.is_root:
            if nodes[-1].start <= request.logits_cursor and span_of(above).num_computed == len(above):
                break
            nodes.append(above)
        for node in reversed(nodes):
            if not self._add_node(request, node):
                break

    def _add_node(self, request: Request, node: KVNode) -> bool:
        """Plan a node's part of the work, in order of position; whether the budget sufficed."""
        rows = self._rows.get(node)
        if rows is None:
            computed = span_of(node).num_computed
            rows = self._rows[node] = NodeRows(node, computed, computed)
        first_wanted = max(request.logits_cursor - node.start, 0)
        for offset in range(first_wanted, rows.begin):
            if offset not in rows.probes:
                if self.budget == 0:
                    return False
                rows.probes[offset] = -1
                self._spend(request, node.start + offset, 1)
            self._points.append((request, rows, offset))
        missing = len(node) - rows.end
        count = min(self.budget, missing)
        self._spend(request, node.start + rows.end, count)
        rows.end += count
        self._points += [(request, rows, offset) for offset in range(max(first_wanted, rows.begin), rows.end)]
        return count == missing

    def _spend(self, request: Request, position: int, count: int) -> None:
        self.budget -= count
        if position < request.num_prompt_tokens:
            self._num_prompt_rows += min(count, request.num_prompt_tokens - position)

    def build(self) -> Batch | None:
        """Lay the rows out in depth-first order; ``None`` if there is nothing to do."""
        visits, num_rows = self._depth_first()
        if num_rows == 0:
            return None
        batch = Batch(visits, num_rows, self._num_prompt_rows, self._requests)
        for request, rows, offset in self._points:
            point = LogitsPoint(request, rows.row_of(offset), rows.node.start + offset)
            if request.score_from is not None:
                batch.scores.append(point)
                if request.params.logprobs:
                    batch.compared.append(point)
            elif request.params.max_tokens > 0:
                batch.samples.append(point)
            else:
                batch.cached.append(request)
        return batch

    def _depth_first(self) -> tuple[list[Visit], int]:
        children: dict[KVNode, list[KVNode]] = {}
        tops: list[KVNode] = []
        for node, rows in self._rows.items():
            if rows.num_rows == 0 or node in children:
                continue
            children[node] = []
            while (parent := node.parent) is not None and not parent.is_root:
                siblings = children.get(parent)
                if siblings is not None:
                    siblings.append(node)
                    break
                children[parent] = [node]
                node = parent
            else:
                tops.append(node)
        visits: list[Visit] = []
        num_rows = 0
        stack = [(node, -1) for node in reversed(tops)]
        while stack:
            node, parent_index = stack.pop()
            node_rows = self._rows.get(node)
            first_row = num_rows
            if node_rows is not None:
                node_rows.first_row = first_row
                if node_rows.probes:
                    node_rows.probes = {
                        offset: place for place, offset in enumerate(sorted(node_rows.probes))
                    }
                num_rows += node_rows.num_rows
            stack += [(child, len(visits)) for child in reversed(children[node])]
            visits.append(Visit(node, node_rows, parent_index, first_row, num_rows))
        for visit in reversed(visits):
            if visit.parent >= 0:
                above = visits[visit.parent]
                above.end_row = max(above.end_row, visit.end_row)
        return visits, num_rows
