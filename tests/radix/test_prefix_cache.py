"""Paths of requests in the cache: sharing, pending tokens, growth, release; and a state machine."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ramet.radix import Path, PrefixCache


def ids(*tokens):
    return np.array(tokens, dtype=np.int32)


def compute(cache: PrefixCache, path: Path) -> None:
    """What a step does for a path, in one go."""
    nodes = []
    node = path.tail
    while not node.is_root:
        nodes.append(node)
        node = node.parent
    for node in reversed(nodes):
        cache.mark_computed(node, len(node))


def slots_of(path: Path) -> list[int]:
    slots: list[int] = []
    node = path.tail
    while not node.is_root:
        slots = [*node.payload.slots.view.tolist(), *slots]
        node = node.parent
    return slots


def test_a_request_finds_tokens_that_another_one_is_about_to_compute():
    cache = PrefixCache(16)
    first = cache.admit(ids(1, 2, 3, 4), "")
    second = cache.admit(ids(1, 2, 3, 9), "")
    assert second.num_matched == 3
    assert slots_of(first)[:3] == slots_of(second)[:3]
    assert cache.num_free == 16 - 5
    cache.check()


def test_released_tokens_stay_as_cache_until_room_is_needed():
    cache = PrefixCache(4)
    path = cache.admit(ids(1, 2, 3, 4), "")
    compute(cache, path)
    cache.release(path)
    assert cache.num_free == 0
    assert cache.num_available == 4
    assert cache.match_length(ids(1, 2, 3, 4), "") == 4
    cache.admit(ids(7, 8), "")
    assert cache.match_length(ids(1, 2, 3, 4), "") == 2
    cache.check()


def test_pending_tokens_are_freed_when_their_last_request_leaves():
    cache = PrefixCache(8)
    first, second = cache.admit(ids(1, 2, 3), ""), cache.admit(ids(1, 2, 4), "")
    cache.mark_computed(first.tail.parent, 1)
    cache.release(first)
    cache.check()
    assert cache.num_free == 8 - 3
    cache.release(second)
    cache.check()
    assert cache.num_free == 8 - 1  # the computed token is worth keeping


def test_admission_that_does_not_fit_changes_nothing():
    cache = PrefixCache(4)
    assert cache.admit(ids(1, 2, 3), "") is not None
    assert cache.admit(ids(1, 2, 8, 9), "") is None
    assert cache.admit(ids(1, 2, 8), "", reserve=1) is None
    assert cache.admit(ids(1, 2, 8), "") is not None
    cache.check()


def test_a_path_grows_in_place_when_nobody_shares_its_end():
    cache = PrefixCache(8)
    path = cache.admit(ids(1, 2), "")
    compute(cache, path)
    tail = path.tail
    assert cache.extend(path, [3, 4])
    assert path.tail is tail
    assert path.length == 4
    cache.check()


def test_requests_that_grow_alike_share_slots_and_leave_no_chain_of_nodes():
    cache = PrefixCache(64)
    paths = [cache.admit(ids(1, 2), "") for _ in range(3)]
    for token in range(10, 30):
        for path in paths:
            assert cache.extend(path, [token])
        compute(cache, paths[0])
        cache.check()
    assert paths[0].tail is paths[1].tail is paths[2].tail
    assert 64 - cache.num_free == 22
    depth, node = 0, paths[0].tail
    while not node.is_root:
        depth, node = depth + 1, node.parent
    assert depth <= 2


def test_without_reuse_nothing_stays_after_the_last_path():
    cache = PrefixCache(8, reuse=False)
    first, second = cache.admit(ids(1, 2, 3), "x"), cache.admit(ids(1, 2, 4), "x")
    compute(cache, first)
    compute(cache, second)
    cache.release(first)
    cache.check()
    cache.release(second)
    assert cache.num_free == 8


class CacheMachine(RuleBasedStateMachine):
    """Random requests over a tiny pool. The model: each path's tokens and whether they are computed."""

    paths = Bundle("paths")
    tokens = st.lists(st.integers(0, 2), min_size=1, max_size=10)

    def __init__(self):
        super().__init__()
        self.cache = PrefixCache(24)
        self.live: dict[int, tuple[Path, list[int]]] = {}

    @rule(target=paths, tokens=tokens, reserve=st.integers(0, 4))
    def admit(self, tokens, reserve):
        path = self.cache.admit(ids(*tokens), "", reserve=reserve)
        if path is None:
            return None
        self.live[id(path)] = (path, list(tokens))
        return path

    @rule(path=paths, tokens=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def extend(self, path, tokens):
        if path is None or id(path) not in self.live:
            return
        before = path.length
        grown = self.cache.extend(path, tokens)
        held = self.live[id(path)][1]
        held += tokens[: path.length - before]
        assert path.length == len(held)
        assert grown == (path.length - before == len(tokens))

    @rule(path=paths, share=st.floats(0, 1))
    def compute(self, path, share):
        if path is None or id(path) not in self.live:
            return
        nodes, node = [], path.tail
        while not node.is_root:
            nodes.append(node)
            node = node.parent
        end = int(share * path.length)
        for node in reversed(nodes):
            done = max(node.payload.num_computed, min(len(node), end - node.start))
            self.cache.mark_computed(node, max(done, 0))

    @rule(path=consumes(paths))
    def release(self, path):
        if path is not None and self.live.pop(id(path), None) is not None:
            self.cache.release(path)

    @rule()
    def flush(self):
        self.cache.flush()

    @invariant()
    def holds(self):
        self.cache.check()
        for path, tokens in self.live.values():
            node, spelled = path.tail, []
            while not node.is_root:
                spelled = [*node.key.tolist(), *spelled]
                node = node.parent
            assert spelled == tokens

    def teardown(self):
        for path, _ in self.live.values():
            self.cache.release(path)
        self.cache.check()
        self.cache.flush()
        assert self.cache.num_free == self.cache.num_slots


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
