"""The KV cache as requests see it: the radix tree with slots, and paths in it.

Every slot is free or belongs to one node. Admitting a request inserts all its tokens at once, as nodes
whose KV is *pending*, so a request that arrives a moment later finds them and computes nothing
twice. A request holds a `Path`; its tail is where its tokens end, always at the end of a node.

Invariants, verified by `PrefixCache.check` besides those of the tree:
- every token of every node has a slot; free + in tree == all, without overlap;
- a node has computed tokens only if its parent is computed whole;
- tokens that are not computed are on some request's path (a locked node).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ramet.model_io import Int32Array
from ramet.radix.slots import RUN_SLOTS, SlotAllocator
from ramet.radix.tree import Node, RadixTree
from ramet.radix.vector import Int32Vector, common_prefix_length

NO_SLOTS = np.empty(0, dtype=np.int32)


class KVSpan:
    """What a node carries: the slots of its tokens, and how many of them hold computed KV."""

    __slots__ = ("num_computed", "num_leases", "num_tails", "slots")

    def __init__(self, slots: Int32Array = NO_SLOTS, num_computed: int = 0) -> None:
        self.slots = Int32Vector(slots)
        self.num_computed = num_computed
        self.num_tails = 0  # paths that end at this node
        self.num_leases = 0  # leases on paths through this node (`ramet.radix.leases`)

    def split(self, index: int) -> KVSpan:
        head = KVSpan(self.slots.split(index).view, min(self.num_computed, index))
        head.num_leases = self.num_leases
        self.num_computed = max(self.num_computed - index, 0)
        return head

    def prepend(self, head: KVSpan) -> None:
        """Take over the slots of a computed parent."""
        self.slots.prepend(head.slots.view)
        self.num_computed += head.num_computed


KVNode: TypeAlias = Node[KVSpan]


def is_computed(node: KVNode) -> bool:
    """Whether all tokens of a node have their KV: true of roots, which have no tokens."""
    return node.payload.num_computed == node.end - node.start


@dataclass(slots=True)
class Path:
    """A request's place in the tree. It holds a lock on everything up to ``tail``."""

    tail: KVNode
    num_matched: int  # tokens that were there already when the path was admitted

    @property
    def length(self) -> int:
        return self.tail.end


class PrefixCache:
    """Slots and tree for requests. All decisions about memory are made here."""

    def __init__(self, num_slots: int, *, reuse: bool = True) -> None:
        """``reuse=False`` keeps nothing after the last request of a namespace has left."""
        self._slots = SlotAllocator(num_slots)
        self._tree: RadixTree[KVSpan] = RadixTree(KVSpan)
        self._reuse = reuse
        self.num_evicted_tokens = 0
        self.num_pending_tokens = 0  # tokens in the tree whose KV is not computed: the work there is

    @property
    def num_slots(self) -> int:
        return self._slots.num_slots

    @property
    def num_free(self) -> int:
        return self._slots.num_free

    @property
    def num_available(self) -> int:
        """Slots that are free or can be made free by evicting."""
        return self._slots.num_free + self._tree.num_unlocked_tokens

    def match_length(self, token_ids: Int32Array, namespace: str) -> int:
        """How many leading tokens the tree holds, computed or pending. Changes nothing."""
        return self._tree.match(token_ids, namespace).length

    # -------------------------------------------------------------------------------------- paths

    def admit(self, token_ids: Int32Array, namespace: str, *, reserve: int = 0) -> Path | None:
        """Insert a request's tokens and lock their path.

        ``None`` if that would leave fewer than ``reserve`` slots available; nothing is locked then.
        """
        tree = self._tree
        match = tree.match(token_ids, namespace)
        node = match.node
        if 0 < match.offset < len(node):
            node = tree.split(node, match.offset)
        matched = match.length
        if matched:
            tree.lock(node)
        missing = len(token_ids) - matched
        if missing + reserve > self.num_available:
            if matched:
                tree.unlock(node)
            return None
        if missing:
            has_room = self._make_room(missing)
            assert has_room, missing
            slots = self._slots.allocate(missing, after=node.payload.slots.view.item(-1) if matched else -1)
            parent = node if matched else tree.root(namespace)
            node = tree.add_child(parent, token_ids[matched:], KVSpan(slots))
            self.num_pending_tokens += missing
            if matched:
                tree.lock_child(node)
            else:
                tree.lock(node)
        node.payload.num_tails += 1
        return Path(node, matched)

    def extend(self, path: Path, token_ids: Sequence[int]) -> bool:
        """Lengthen a path by new tokens, following nodes that hold them already.

        False if slots ran out; the tokens inserted until then stay (``path.length`` tells).
        """
        tree, rest = self._tree, token_ids
        while rest:
            tail = path.tail
            child = tail.children.get(rest[0])
            if child is None:
                return self._extend_by_new(path, rest)
            matched = common_prefix_length(child.key, np.asarray(rest, dtype=np.int32))
            self._move_tail(path, child if matched == len(child) else tree.split(child, matched))
            rest = rest[matched:]
        return True

    def rename_last(self, path: Path, token_id: int) -> None:
        """The last token of a path, put there under a name that nobody else uses, has become known."""
        tail = path.tail
        assert not tail.children and tail.payload.num_tails == 1, tail
        if len(tail) == 1 and tail.parent is not None and token_id in tail.parent.children:
            self.drop_last(path)  # somebody else has put it there meanwhile
            self.extend(path, [token_id])
        else:
            self._tree.rename_last(tail, token_id)

    def drop_last(self, path: Path) -> None:
        """Take the last token off a path; it must stand there under a name that nobody else uses."""
        tree, tail = self._tree, path.tail
        assert not tail.children and tail.payload.num_tails == 1, tail
        parent = tail.parent if len(tail) == 1 else tree.split(tail, len(tail) - 1)
        assert parent is not None and not parent.is_root, tail
        tree.unlock_child(tail)
        removed = tree.remove(tail)
        self._slots.free(removed.slots.view)
        self.num_pending_tokens -= 1 - removed.num_computed
        parent.payload.num_tails += 1
        path.tail = parent

    def release(self, path: Path) -> None:
        """Let a path go.

        Computed tokens stay as evictable cache; pending ones that nobody else needs are freed.
        """
        tree = self._tree
        path.tail.payload.num_tails -= 1
        tree.unlock(path.tail)
        node: KVNode | None = path.tail
        while node is not None and not node.is_root and node.lock_count == 0 and not node.children:
            parent, span = node.parent, node.payload
            kept = span.num_computed if self._reuse else 0
            if kept == len(node):
                break
            if kept:
                tree.split(node, kept)
            removed = tree.remove(node)
            self._slots.free(removed.slots.view)
            self.num_pending_tokens -= len(removed.slots.view) - removed.num_computed
            node = parent

    def mark_computed(self, node: KVNode, num_computed: int) -> None:
        """The first ``num_computed`` tokens of a node have their KV now."""
        span = node.payload
        assert span.num_computed <= num_computed <= len(node), (span.num_computed, num_computed, node)
        self.num_pending_tokens -= num_computed - span.num_computed
        span.num_computed = num_computed

    def flush(self) -> int:
        """Evict everything that no request holds; returns the number of tokens evicted."""
        before = self.num_evicted_tokens
        self._evict(self._tree.num_unlocked_tokens)
        return self.num_evicted_tokens - before

    # ------------------------------------------------------------------------------------ internals

    def _extend_by_new(self, path: Path, token_ids: Sequence[int]) -> bool:
        """Lengthen a path by tokens of which the first does not follow it yet."""
        count = len(token_ids)
        if not self._make_room(count):
            return False
        self.num_pending_tokens += count
        tail, span = path.tail, path.tail.payload
        last_slot = span.slots.view.item(-1)
        if tail.children or span.num_tails > 1:
            key, slots = np.asarray(token_ids, dtype=np.int32), self._slots.allocate(count, last_slot)
            self._move_tail(path, self._tree.add_child(tail, key, KVSpan(slots)))
            return True
        if count == 1:  # as in most steps: no array for it
            taken = [self._slots.allocate_one(last_slot)]
        else:
            taken = self._slots.allocate(count, last_slot).tolist()
        for token_id, slot in zip(token_ids, taken, strict=True):
            self._tree.append(tail, token_id)
            span.slots.append(slot)
        return True

    def _move_tail(self, path: Path, child: KVNode) -> None:
        """Let a path end at a child of its tail."""
        old = path.tail
        self._tree.lock_child(child)
        old.payload.num_tails -= 1
        child.payload.num_tails += 1
        path.tail = child
        # Requests that generate the same tokens in step would leave a chain of one-token nodes behind.
        head, mergeable = old.payload, len(old.children) == 1 and old.lock_count == child.lock_count
        if mergeable and head.num_tails == 0 and head.num_computed == len(old):
            child.payload.prepend(head)
            self._tree.merge_into_child(old)

    def _make_room(self, count: int) -> bool:
        """Whether so many slots are free, if need be after evicting."""
        if count <= self._slots.num_free:
            return True
        # More than is missing: what is freed together lies together, and runs of slots become whole again
        spare = min(8 * RUN_SLOTS, self.num_slots // 32)
        self._evict(max(count - self._slots.num_free, spare))
        return count <= self._slots.num_free

    def _evict(self, num_tokens: int) -> None:
        for span in self._tree.evict(num_tokens):
            self._slots.free(span.slots.view)
            self.num_evicted_tokens += len(span.slots.view)

    # ------------------------------------------------------------------------------------- checking

    def check(self) -> None:
        """Verify the invariants of tree and slots; for tests.

        Raises:
            AssertionError: one does not hold.
        """
        self._tree.check()
        held = [self._slots.free_slots()]
        assert len(held[0]) == self._slots.num_free, (len(held[0]), self._slots.num_free)
        num_pending = 0
        for node in self._tree.nodes():
            span = node.payload
            assert len(span.slots.view) == len(node), (len(span.slots.view), node)
            assert 0 <= span.num_computed <= len(node), (span.num_computed, node)
            assert node.lock_count > 0 or span.num_computed == len(node), f"{node} is pending and unlocked"
            assert node.lock_count >= span.num_tails, (node, span.num_tails)
            parent = node.parent
            if span.num_computed and parent is not None and not parent.is_root:
                assert parent.payload.num_computed == len(parent), f"{node} is computed, its parent is not"
            held.append(span.slots.view)
            num_pending += len(node) - span.num_computed
        assert self.num_pending_tokens == num_pending, (self.num_pending_tokens, num_pending)
        slots = np.sort(np.fromiter(itertools.chain.from_iterable(held), dtype=np.int32))
        assert np.array_equal(slots, np.arange(self.num_slots)), "a slot is lost or held twice"
