"""Which tokens of a vocabulary an automaton allows: the vocabulary as a trie of bytes, walked state by state.

Invariant: a bit is set if and only if the token has bytes and they keep the automaton alive. Special tokens
are never allowed here; who ends a text with one sets its bit. Knows nothing of requests, and keeps no masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ramet.errors import UnsupportedFeature
from ramet.kernels import load_native, why_unavailable
from ramet.model_io import Int32Array, Int64Array, UInt32Array
from ramet.tokenizer.vocab import Vocab

if TYPE_CHECKING:
    from ramet.grammar.automaton import Dfa
    from ramet.kernels import _cpu


class TokenIndex:
    """The tokens of one model, by their bytes. Never changed once made: threads may share it."""

    def __init__(self, vocab: Vocab, vocab_size: int, *, native: bool | None = None) -> None:
        """
        Args:
            vocab: the bytes of the tokens. Those that are special, have no bytes, or lie past ``vocab_size``
                are left out.
            vocab_size: of the model's logits; may exceed ``len(vocab)``. Ids without a token are not allowed.
            native: walk in the native kernels (True) or in NumPy (False), which takes some twenty times as
                long; None takes the kernels if this install has them. The answers are the same.

        Raises:
            ValueError: ``vocab_size`` is not positive.
            UnsupportedFeature: ``native`` is True and this install has no kernels.
        """
        if vocab_size <= 0:
            raise ValueError(f"vocab_size must be positive, not {vocab_size}")
        kernels = None if native is False else load_native()
        if native and kernels is None:
            raise UnsupportedFeature(f"the native kernels cannot be used: {why_unavailable()}")
        nodes = _build_trie(vocab, vocab_size)
        self._walker: _Walker = (
            _ArrayWalker(nodes) if kernels is None else _NativeWalker(kernels.TokenTrie, nodes)
        )
        self.vocab_size = vocab_size

    @property
    def num_words(self) -> int:
        """Words of 32 bits in a mask."""
        return -(-self.vocab_size // 32)

    def allowed(self, dfa: Dfa, state: int) -> UInt32Array:
        """The tokens that keep ``dfa`` alive from ``state``.

        Returns:
            ``[num_words]``, read-only: bit ``t % 32`` of word ``t // 32`` is set if token ``t`` is allowed.

        Raises:
            ValueError: there is no such state, or the arrays of ``dfa`` do not fit each other.
        """
        mask = self._walker.allowed(dfa, state)
        mask.flags.writeable = False
        return mask

    def crosses(self, dfa: Dfa, state: int, tail: bytes) -> bool:
        """Whether some token is ``tail`` and at least one byte more, and what is more keeps ``dfa`` alive
        from ``state``: then text that ends with ``tail`` may still become other tokens.

        Raises:
            ValueError: as `allowed`.
        """
        return self._walker.crosses(dfa, state, tail)


@dataclass(frozen=True, slots=True, eq=False)
class _Trie:
    """One node per byte, in depth-first order, siblings in order of their bytes."""

    node_bytes: NDArray[np.uint8]  # [num_nodes]
    node_depths: Int32Array  # [num_nodes] 0 for first bytes
    node_of_token: Int32Array  # [vocab_size] where it ends; -1 if it has no bytes


class _Walker(Protocol):
    def allowed(self, dfa: Dfa, state: int) -> UInt32Array: ...
    def crosses(self, dfa: Dfa, state: int, tail: bytes) -> bool: ...


def _build_trie(vocab: Vocab, vocab_size: int) -> _Trie:
    """In a sorted list of strings, each adds the nodes behind what it shares with the one before."""
    every = vocab.token_bytes
    token_ids = [
        token_id
        for token_id, data in enumerate(every[:vocab_size])
        if data and token_id not in vocab.special_ids
    ]
    token_ids.sort(key=every.__getitem__)
    lengths = np.fromiter((len(every[token_id]) for token_id in token_ids), np.int64, len(token_ids))
    data = np.frombuffer(b"".join(every[token_id] for token_id in token_ids), np.uint8)
    common = _common_prefixes(data, lengths)
    depths = np.arange(len(data)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_new = depths >= np.repeat(common, lengths)
    node_of_token = np.full(vocab_size, -1, np.int32)
    node_of_token[token_ids] = np.cumsum(lengths - common) - 1  # equal strings add nothing and share a node
    return _Trie(data[is_new], depths[is_new].astype(np.int32), node_of_token)


def _common_prefixes(data: NDArray[np.uint8], lengths: Int64Array) -> Int64Array:
    """``[num_strings]``: how many first bytes each string shares with the one before it in ``data``."""
    common = np.zeros(len(lengths), np.int64)
    begins = np.cumsum(lengths) - lengths
    later = np.arange(1, len(lengths))  # the strings that are like the one before so far
    depth = 0
    while len(later):
        later = later[np.minimum(lengths[later], lengths[later - 1]) > depth]
        later = later[data[begins[later] + depth] == data[begins[later - 1] + depth]]
        depth += 1
        common[later] = depth
    return common


class _NativeWalker:
    """Depth-first in C++, without the interpreter's lock."""

    def __init__(self, trie_type: type[_cpu.TokenTrie], trie: _Trie) -> None:
        self._trie = trie_type(trie.node_bytes, trie.node_depths, trie.node_of_token)
        self._num_words = -(-len(trie.node_of_token) // 32)

    def allowed(self, dfa: Dfa, state: int) -> UInt32Array:
        mask = np.empty(self._num_words, np.uint32)
        self._trie.allowed(dfa.byte_classes, dfa.transitions, state, mask)
        return mask

    def crosses(self, dfa: Dfa, state: int, tail: bytes) -> bool:
        return self._trie.crosses(dfa.byte_classes, dfa.transitions, state, tail)


class _ArrayWalker:
    """Level by level in NumPy: all living nodes of a depth at once."""

    def __init__(self, trie: _Trie) -> None:
        num_nodes, vocab_size = len(trie.node_bytes), len(trie.node_of_token)
        order = np.argsort(trie.node_depths, kind="stable")  # by depth, and depth-first within one
        depths = trie.node_depths[order].astype(np.int64)
        place = np.empty(num_nodes, np.int64)
        place[order] = np.arange(num_nodes)
        self._bytes = trie.node_bytes[order]
        # The children of a node stand together: the first one is the first of the next depth that follows it
        # in depth-first order, and they end where those of the next node begin.
        next_depth = (depths + 1) * num_nodes + order
        self._children = np.append(np.searchsorted(depths * num_nodes + order, next_depth), num_nodes)
        self._num_roots = int(np.count_nonzero(depths == 0))
        # Up to a whole number of words. What has no bytes ends at a node that is never alive.
        self._node_of_token = np.full(-(-vocab_size // 32) * 32, num_nodes)
        has_bytes = np.flatnonzero(trie.node_of_token >= 0)
        self._node_of_token[has_bytes] = place[trie.node_of_token[has_bytes]]
        self._ends_token = np.zeros(num_nodes, np.bool_)
        self._ends_token[self._node_of_token[has_bytes]] = True

    def allowed(self, dfa: Dfa, state: int) -> UInt32Array:
        _check(dfa, state)
        is_alive = np.zeros(len(self._bytes) + 1, np.bool_)
        for nodes in self._levels(dfa, state, 0, self._num_roots):
            is_alive[nodes] = True
        bits = np.packbits(is_alive[self._node_of_token], bitorder="little")
        return bits.view("<u4").astype(np.uint32)

    def crosses(self, dfa: Dfa, state: int, tail: bytes) -> bool:
        _check(dfa, state)
        begin, end = 0, self._num_roots
        for byte in tail:
            node = begin + int(np.searchsorted(self._bytes[begin:end], byte))
            if node == end or self._bytes[node] != byte:
                return False
            begin, end = map(int, self._children[node : node + 2])
        return any(self._ends_token[nodes].any() for nodes in self._levels(dfa, state, begin, end))

    def _levels(self, dfa: Dfa, state: int, begin: int, end: int) -> Iterator[Int64Array]:
        """The living nodes among the siblings ``begin .. end - 1``, then those one level down, and so on."""
        nodes = np.arange(begin, end)
        states = np.full(len(nodes), state, np.int32)
        while len(nodes):
            states = dfa.transitions[states, dfa.byte_classes[self._bytes[nodes]]]
            if states.min() < -1 or states.max() >= len(dfa.transitions):
                raise ValueError("a transition leads to what is no state")
            alive = states >= 0
            nodes, states = nodes[alive], states[alive]
            yield nodes
            begins = self._children[nodes]
            counts = self._children[nodes + 1] - begins
            offsets = np.cumsum(counts) - counts
            nodes = np.repeat(begins - offsets, counts) + np.arange(counts.sum())
            states = np.repeat(states, counts)


def _check(dfa: Dfa, state: int) -> None:
    if dfa.byte_classes.shape != (256,) or dfa.transitions.ndim != 2:
        raise ValueError("byte_classes must be [256] and transitions [num_states, num_classes]")
    if dfa.byte_classes.max() >= dfa.transitions.shape[1]:
        raise ValueError("transitions must have a column per class of bytes")
    if not 0 <= state < len(dfa.transitions):
        raise ValueError(f"the automaton has no state {state}, only {len(dfa.transitions)}")
