"""The generic radix tree: examples, and a state machine against a plain dict of prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ramet.radix import Node, RadixTree


class Letters:
    """A payload that spells out what it stands for, so that every cut can be checked."""

    def __init__(self, tokens=()):
        self.tokens = list(tokens)

    def split(self, index):
        head = Letters(self.tokens[:index])
        self.tokens = self.tokens[index:]
        return head


def key(text):
    return np.array([ord(letter) for letter in text], dtype=np.int32)


def insert(tree: RadixTree[Letters], text: str, namespace: str = "") -> Node[Letters]:
    match = tree.match(key(text), namespace)
    node = match.node
    if 0 < match.offset < len(node):
        node = tree.split(node, match.offset)
    if match.length == len(text):
        return node
    parent = node if match.length else tree.root(namespace)
    return tree.add_child(parent, key(text[match.length :]), Letters(text[match.length :]))


def test_a_shared_prefix_is_stored_once():
    tree: RadixTree[Letters] = RadixTree(Letters)
    insert(tree, "romane")
    insert(tree, "romanus")
    insert(tree, "romulus")
    assert tree.num_tokens == len("rom") + len("an") + len("e") + len("us") + len("ulus")
    assert tree.match(key("romanum")).length == len("romanu")
    assert tree.match(key("x")).length == 0
    tree.check()


def test_matching_changes_nothing():
    tree: RadixTree[Letters] = RadixTree(Letters)
    insert(tree, "romane")
    assert tree.match(key("romulus")).length == 3
    assert tree.match(key("romulus"), "elsewhere").length == 0
    assert tree.num_nodes == 1
    tree.check()


def test_namespaces_never_meet():
    tree: RadixTree[Letters] = RadixTree(Letters)
    insert(tree, "secret", "tenant a")
    assert tree.match(key("secret"), "tenant b").length == 0
    assert tree.match(key("secret"), "tenant a").length == 6


def test_a_split_keeps_the_identity_of_the_lower_part():
    tree: RadixTree[Letters] = RadixTree(Letters)
    tail = insert(tree, "romane")
    insert(tree, "romulus")
    assert tail.end == 6
    assert "".join(map(chr, tail.key)) == "ane"


def test_eviction_takes_the_leaf_used_longest_ago_first():
    tree: RadixTree[Letters] = RadixTree(Letters)
    old, new = insert(tree, "aaaa"), insert(tree, "bbbb")
    tree.lock(old)
    tree.unlock(old)  # used again: now "bbbb" is the older one
    assert [payload.tokens for payload in tree.evict(4)] == [list("bbbb")]
    assert new.parent is None
    assert tree.match(key("aaaa")).length == 4


def test_eviction_takes_only_the_end_of_a_leaf_that_is_larger_than_needed():
    tree: RadixTree[Letters] = RadixTree(Letters)
    insert(tree, "abcdef")
    assert [payload.tokens for payload in tree.evict(2)] == [["e", "f"]]
    assert tree.match(key("abcdef")).length == 4
    tree.check()


def test_a_locked_path_is_never_evicted():
    tree: RadixTree[Letters] = RadixTree(Letters)
    tail = insert(tree, "romane")
    tree.lock(tail)
    insert(tree, "romulus")
    assert sum(len(payload.tokens) for payload in tree.evict(100)) == len("ulus")
    assert tree.match(key("romane")).length == 6
    tree.unlock(tail)
    assert sum(len(payload.tokens) for payload in tree.evict(100)) == 6
    assert tree.num_nodes == tree.num_tokens == 0
    tree.check()


def test_merging_undoes_a_split():
    tree: RadixTree[Letters] = RadixTree(Letters)
    tail = insert(tree, "romane")
    upper = tree.split(tail, 3)
    tail.payload.tokens = upper.payload.tokens + tail.payload.tokens
    tree.merge_into_child(upper)
    assert tree.num_nodes == 1
    assert tree.match(key("romane")).node is tail
    tree.check()


def test_locking_more_often_than_unlocking_is_noticed():
    tree: RadixTree[Letters] = RadixTree(Letters)
    tail = insert(tree, "a")
    tree.lock(tail)
    tree.unlock(tail)
    with pytest.raises(AssertionError):
        tree.unlock(tail)


class TreeMachine(RuleBasedStateMachine):
    """Random inserts, locks and evictions; a set of strings says what the tree must hold."""

    locked = Bundle("locked")
    words = st.text(alphabet="ab", min_size=1, max_size=12)
    namespaces = st.sampled_from(["", "other"])

    def __init__(self):
        super().__init__()
        self.tree: RadixTree[Letters] = RadixTree(Letters)
        self.held: list[tuple[str, str]] = []

    @rule(word=words, namespace=namespaces)
    def insert(self, word, namespace):
        insert(self.tree, word, namespace)
        assert self.tree.match(key(word), namespace).length == len(word)

    @rule(target=locked, word=words, namespace=namespaces)
    def insert_and_lock(self, word, namespace):
        node = insert(self.tree, word, namespace)
        self.tree.lock(node)
        self.held.append((namespace, word))
        return node, (namespace, word)

    @rule(entry=consumes(locked))
    def unlock(self, entry):
        node, word = entry
        self.tree.unlock(node)
        self.held.remove(word)

    @rule(count=st.integers(1, 30))
    def evict(self, count):
        unlocked = self.tree.num_unlocked_tokens
        removed = sum(len(payload.tokens) for payload in self.tree.evict(count))
        assert removed == min(count, unlocked)

    @invariant()
    def holds(self):
        self.tree.check()
        for namespace, word in self.held:
            assert self.tree.match(key(word), namespace).length == len(word)
        for node in self.tree.nodes():
            assert node.payload.tokens == [chr(token) for token in node.key]


TestTreeMachine = TreeMachine.TestCase
TestTreeMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
