"""A radix tree over token ids, generic over what a node carries.

The engine stores KV slots in it, a router the workers that hold a prefix. Keys live under a *namespace*
(an adapter, a tenant, a cache salt), so equal tokens of different namespaces never meet.

Nodes are edges and states in one: a node's ``key`` is the run of tokens from its parent to itself. A
node object keeps its identity as the *lower* part when it is split, so whoever points at the end of a
path may keep pointing.

Invariants, verified by `RadixTree.check`:
- children of a node start with different tokens; only roots have empty keys;
- ``start`` of a node is where its parent ends, and ``end`` is as many tokens further as it has;
- a locked node locks its ancestors (lock counts never grow downwards);
- evictable leaves (unlocked, childless) stand in a heap ordered by last access: eviction never walks.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from ramet.model_io import Int32Array
from ramet.radix.vector import Int32Vector, common_prefix_length


class Payload(Protocol):
    """What a node carries for its tokens."""

    def split(self, index: int) -> Self:
        """Cut off and return what belongs to the first ``index`` tokens; keep the rest."""
        ...


P = TypeVar("P", bound=Payload)


class Node(Generic[P]):
    """A run of tokens and what is stored for it. Only the tree changes the structure of nodes."""

    __slots__ = (
        "_key",
        "children",
        "end",
        "is_root",
        "last_access",
        "lock_count",
        "namespace",
        "parent",
        "payload",
        "start",
    )

    def __init__(self, key: Int32Array, start: int, parent: Node[P] | None, payload: P) -> None:
        self._key = Int32Vector(key)
        self.start = start  # position of the first token
        self.end = start + len(key)  # position after the last one
        self.parent = parent  # None for roots, and for nodes that were taken out
        self.is_root = parent is None
        self.payload = payload
        self.children: dict[int, Node[P]] = {}
        self.lock_count = 0  # locks at this node or below it
        self.last_access = 0
        self.namespace: str | None = None  # set on roots only

    @property
    def key(self) -> Int32Array:
        """The tokens. A view: valid until the node changes."""
        return self._key.view

    def __len__(self) -> int:
        return self.end - self.start

    def __repr__(self) -> str:
        return f"Node({self.start}..{self.end}, locks={self.lock_count}, children={len(self.children)})"


@dataclass(frozen=True, slots=True)
class Match(Generic[P]):
    """The longest stored prefix of a key: ``length`` tokens, which end ``offset`` tokens into ``node``."""

    node: Node[P]
    offset: int
    length: int


class RadixTree(Generic[P]):
    """See the module docstring."""

    def __init__(self, empty: Callable[[], P]) -> None:
        """``empty`` makes the payload of no tokens: what roots carry."""
        self._empty = empty
        self._roots: dict[str, Node[P]] = {}
        self._heap: list[
            tuple[int, int, Node[P]]
        ] = []  # (last access, tie breaker, node); may hold stale entries
        self._clock = 0
        self._serial = 0
        self.num_nodes = 0
        self.num_tokens = 0
        self.num_unlocked_tokens = 0

    # ------------------------------------------------------------------------------------- reading

    def root(self, namespace: str = "") -> Node[P]:
        """The root of a namespace, made when it is first asked for."""
        root = self._roots.get(namespace)
        if root is None:
            root = self._roots[namespace] = self._new_root()
            root.namespace = namespace
        return root

    def match(self, key: Int32Array, namespace: str = "") -> Match[P]:
        """The longest stored prefix of ``key``. Does not modify the tree."""
        node = self._roots.get(namespace)
        if node is None:
            return Match(self._new_root(), 0, 0)
        position = 0
        while position < len(key):
            child = node.children.get(int(key[position]))
            if child is None:
                break
            matched = common_prefix_length(child.key, key[position:])
            position += matched
            node = child
            if matched < len(child):
                return Match(node, matched, position)
        return Match(node, len(node), position)

    def nodes(self) -> Iterator[Node[P]]:
        """All nodes but the roots, parents before children."""
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    # ------------------------------------------------------------------------------------- growing

    def split(self, node: Node[P], index: int) -> Node[P]:
        """Cut a node in two after ``index`` tokens; returns the new upper part.

        ``node`` itself stays the lower part. Locks hold both.
        """
        parent = node.parent
        assert parent is not None, "cannot split a root"
        upper: Node[P] = Node(node._key.split(index).view, node.start, parent, node.payload.split(index))
        parent.children[int(upper.key[0])] = upper
        upper.children[int(node.key[0])] = node
        upper.lock_count = node.lock_count
        upper.last_access = node.last_access
        node.start += index
        node.parent = upper
        self.num_nodes += 1
        return upper

    def add_child(self, parent: Node[P], key: Int32Array, payload: P) -> Node[P]:
        """Hang a new unlocked node under ``parent``, which must have no child with the same first token."""
        assert len(key) > 0 and int(key[0]) not in parent.children, (len(key), parent)
        node = Node(key, parent.end, parent, payload)
        node.last_access = self._tick()
        parent.children[int(key[0])] = node
        self.num_nodes += 1
        self.num_tokens += len(node)
        self.num_unlocked_tokens += len(node)
        self._offer(node)
        return node

    def append(self, node: Node[P], token_id: int) -> None:
        """Lengthen a locked leaf by a token. The caller lengthens the payload."""
        assert not node.children and node.lock_count > 0 and not node.is_root, node
        node._key.append(token_id)
        node.end += 1
        self.num_tokens += 1

    def rename_last(self, leaf: Node[P], token_id: int) -> None:
        """Change the last token of a leaf; its parent must have no child that starts like it then."""
        parent = leaf.parent
        assert parent is not None and not leaf.children, leaf
        if len(leaf) == 1:
            assert token_id not in parent.children, (token_id, parent)
            del parent.children[int(leaf.key[0])]
            parent.children[token_id] = leaf
        leaf._key.set_last(token_id)

    def merge_into_child(self, node: Node[P]) -> Node[P]:
        """Undo a split: an only child takes over its parent's tokens. The caller joins the payloads.

        The two must be locked equally often; ``node`` is gone afterwards.
        """
        (child,) = node.children.values()
        parent = node.parent
        assert parent is not None and node.lock_count == child.lock_count, (node, child)
        child._key.prepend(node.key)
        child.start = node.start
        child.parent = parent
        parent.children[int(child.key[0])] = child
        node.parent = None
        self.num_nodes -= 1
        return child

    # ------------------------------------------------------------------------------------- locking

    def lock(self, node: Node[P]) -> None:
        """Protect a path from eviction, from its root to the end of ``node``. Locks count."""
        now = self._tick()
        step: Node[P] | None = node
        while step is not None:
            step.lock_count += 1
            step.last_access = now
            if step.lock_count == 1:
                self.num_unlocked_tokens -= len(step)
            step = step.parent

    def lock_child(self, child: Node[P]) -> None:
        """Lengthen a lock that ends at the parent by one node: cheaper than `lock` plus `unlock`."""
        assert child.parent is not None and child.parent.lock_count > child.lock_count, child
        child.lock_count += 1
        child.last_access = self._tick()
        if child.lock_count == 1:
            self.num_unlocked_tokens -= len(child)

    def unlock_child(self, child: Node[P]) -> None:
        """Let a lock that ends at a leaf end at its parent: undo `lock_child`."""
        assert child.lock_count > 0 and not child.children, child
        child.lock_count -= 1
        child.last_access = self._tick()
        if child.lock_count == 0:
            self.num_unlocked_tokens += len(child)
            self._offer(child)

    def unlock(self, node: Node[P]) -> None:
        """Undo one `lock` of this path."""
        now = self._tick()
        step: Node[P] | None = node
        while step is not None:
            assert step.lock_count > 0, step
            step.lock_count -= 1
            step.last_access = now
            if step.lock_count == 0:
                self.num_unlocked_tokens += len(step)
                if not step.children:
                    self._offer(step)
            step = step.parent

    # ------------------------------------------------------------------------------------ removing

    def remove(self, leaf: Node[P]) -> P:
        """Take an unlocked leaf out and return its payload."""
        parent = leaf.parent
        assert not leaf.children and leaf.lock_count == 0 and parent is not None, leaf
        del parent.children[int(leaf.key[0])]
        leaf.parent = None
        self.num_nodes -= 1
        self.num_tokens -= len(leaf)
        self.num_unlocked_tokens -= len(leaf)
        if parent.lock_count == 0 and not parent.children:
            self._offer(parent)
        self._drop_root_if_empty(parent)
        return leaf.payload

    def evict(self, num_tokens: int) -> Iterator[P]:
        """Remove the tokens used longest ago, from the ends of unlocked leaves: the payloads removed.

        Stops when ``num_tokens`` are gone or nothing evictable is left. A leaf larger than needed only loses
        its end.
        """
        while num_tokens > 0 and (leaf := self._pop_oldest_leaf()) is not None:
            surplus = len(leaf) - num_tokens
            if surplus > 0:
                self.split(leaf, surplus)
            num_tokens -= len(leaf)
            yield self.remove(leaf)

    # ------------------------------------------------------------------------------------ internals

    def _new_root(self) -> Node[P]:
        return Node(np.empty(0, dtype=np.int32), 0, None, self._empty())

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _is_evictable(self, node: Node[P]) -> bool:
        return node.lock_count == 0 and not node.children and node.parent is not None

    def _offer(self, node: Node[P]) -> None:
        """Put an evictable leaf in the heap, under its last access."""
        if not self._is_evictable(node):
            return
        if len(self._heap) > 2 * self.num_nodes + 64:  # mostly stale entries: rebuild, amortised O(1)
            self._heap = [entry for entry in self._heap if self._is_current(entry)]
            heapq.heapify(self._heap)
        self._serial += 1
        heapq.heappush(self._heap, (node.last_access, self._serial, node))

    def _is_current(self, entry: tuple[int, int, Node[P]]) -> bool:
        last_access, _, node = entry
        return node.last_access == last_access and self._is_evictable(node)

    def _pop_oldest_leaf(self) -> Node[P] | None:
        while self._heap:
            entry = heapq.heappop(self._heap)
            if self._is_current(entry):
                return entry[2]
        return None

    def _drop_root_if_empty(self, node: Node[P]) -> None:
        # Namespaces come and go with tenants and salts; an empty one must not stay behind.
        if node.namespace is not None and node.lock_count == 0 and not node.children:
            self._roots.pop(node.namespace, None)

    # ------------------------------------------------------------------------------------- checking

    def check(self) -> None:
        """Verify every invariant by walking the whole tree; for tests.

        Raises:
            AssertionError: one does not hold.
        """
        num_nodes = num_tokens = num_unlocked = 0
        current = {id(entry[2]) for entry in self._heap if self._is_current(entry)}
        for namespace, root in self._roots.items():
            assert root.namespace == namespace and len(root) == 0 and root.parent is None
            assert root.lock_count >= sum(child.lock_count for child in root.children.values())
        for node in self.nodes():
            parent = node.parent
            assert len(node) == len(node.key) > 0 and parent is not None and not node.is_root
            assert parent.children.get(int(node.key[0])) is node and node.start == parent.end, node
            assert node.lock_count >= sum(child.lock_count for child in node.children.values()), node
            assert parent.lock_count >= node.lock_count, node
            assert not self._is_evictable(node) or id(node) in current, (
                f"{node} is evictable but not in the heap"
            )
            num_nodes += 1
            num_tokens += len(node)
            num_unlocked += len(node) if node.lock_count == 0 else 0
        counted = (self.num_nodes, self.num_tokens, self.num_unlocked_tokens)
        assert counted == (num_nodes, num_tokens, num_unlocked), (
            counted,
            num_nodes,
            num_tokens,
            num_unlocked,
        )
