"""Constraints at work: what a request may draw next, and what it need not draw at all.

A `Grammar` is a compiled constraint, shared by all requests that have it; a `GrammarMatcher` is where one
request stands in it. Invariant: the tokens a matcher gives back spell a prefix of a string of the language.
Knows nothing of requests, logits or schedules.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from typing import Protocol

import numpy as np

from ramet.errors import InvalidConstraint
from ramet.grammar.automaton import Dfa
from ramet.grammar.compressed import CompressedFsm
from ramet.grammar.jump_forward import Encode, Jumper
from ramet.grammar.token_index import TokenIndex
from ramet.model_io import UInt32Array
from ramet.tokenizer.vocab import Vocab

MASK_CACHE_BYTES = 16 << 20
"""For the masks of one grammar."""
JUMP_CACHE_SIZE = 1024


class GrammarMatcher(Protocol):
    """Where one request stands in its constraint."""

    @property
    def may_end(self) -> bool:
        """Whether the text so far is a string of the language."""
        ...

    @property
    def is_terminated(self) -> bool:
        """Whether it is one and no token can follow."""
        ...

    def begin(self) -> list[int]:
        """Tokens that every output starts with. To be called once, before anything else."""
        ...

    def take(self, token_id: int) -> list[int]:
        """Take a sampled token; returns what to append for it: itself, or what became of it together with
        the text that is forced after it.

        Raises:
            InvalidConstraint: the token is not allowed here, or the vocabulary has none that could follow.
        """
        ...

    def fill_bitmask(self, row: UInt32Array) -> None:
        """Write which tokens may come next: ``[ceil(vocab_size / 32)]``, the lowest bit first."""
        ...


class Grammar(Protocol):
    """A compiled constraint. Safe to share between threads."""

    @property
    def num_bytes(self) -> int:
        """Memory it takes now."""
        ...

    def matcher(self, *, jump_forward: bool = True) -> GrammarMatcher:
        """A matcher at the start of an output."""
        ...


class DfaGrammar:
    """A `Grammar` that is an automaton."""

    def __init__(self, dfa: Dfa, index: TokenIndex, vocab: Vocab, encode: Encode) -> None:
        self.fsm = CompressedFsm(dfa)
        self._index = index
        self._vocab = vocab
        # Of an object of its own: a cache around a method of this one would keep it alive
        self.find_jump = lru_cache(JUMP_CACHE_SIZE)(Jumper(self.fsm, index, vocab, encode).find)
        self._lock = threading.Lock()
        self._masks: OrderedDict[int, tuple[UInt32Array, bool]] = OrderedDict()
        self._max_masks = max(MASK_CACHE_BYTES // (4 * index.num_words), 16)

    @property
    def num_bytes(self) -> int:
        dfa = self.fsm.dfa
        masks = 4 * self._index.num_words * len(self._masks)
        return dfa.transitions.nbytes + dfa.accepting.nbytes + dfa.byte_classes.nbytes + masks

    def matcher(self, *, jump_forward: bool = True) -> GrammarMatcher:
        return DfaMatcher(self, self._vocab, jump_forward)

    def allowed(self, state: int) -> tuple[UInt32Array, bool]:
        """The bitmask of a state, and whether it allows any token."""
        with self._lock:
            known = self._masks.get(state)
            if known is not None:
                self._masks.move_to_end(state)
                return known
        mask = self._index.allowed(self.fsm.dfa, state)
        found = mask, bool(mask.any())
        with self._lock:
            self._masks[state] = found
            if len(self._masks) > self._max_masks:
                self._masks.popitem(last=False)
        return found


class DfaMatcher:
    """A `GrammarMatcher` on an automaton."""

    def __init__(self, grammar: DfaGrammar, vocab: Vocab, jump_forward: bool) -> None:
        self._grammar = grammar
        self._vocab = vocab
        self._jump_forward = jump_forward
        self._state = 0
        self._mask: tuple[UInt32Array, bool] | None = None  # of the state, once it is known

    @property
    def may_end(self) -> bool:
        return bool(self._grammar.fsm.dfa.accepting[self._state])

    @property
    def is_terminated(self) -> bool:
        return self.may_end and not self._allowed()[1]

    def begin(self) -> list[int]:
        token_ids = self._jump(None)
        self._check()
        return token_ids

    def take(self, token_id: int) -> list[int]:
        piece = self._vocab.bytes_of(token_id)
        state = self._grammar.fsm.walk(self._state, piece)
        if state < 0 or not piece:
            raise InvalidConstraint(f"token {token_id} ({piece!r}) does not continue the constraint")
        self._enter(state)
        token_ids = self._jump(token_id)
        self._check()
        return token_ids

    def fill_bitmask(self, row: UInt32Array) -> None:
        np.copyto(row, self._allowed()[0])

    def _enter(self, state: int) -> None:
        self._state = state
        self._mask = None

    def _allowed(self) -> tuple[UInt32Array, bool]:
        if self._mask is None:
            self._mask = self._grammar.allowed(self._state)
        return self._mask

    def _jump(self, sampled: int | None) -> list[int]:
        jump = self._grammar.find_jump(sampled, self._state) if self._jump_forward else None
        if jump is None:
            return [] if sampled is None else [sampled]
        self._enter(jump.state)
        return list(jump.token_ids)

    def _check(self) -> None:
        if not self.may_end and not self._allowed()[1]:
            raise InvalidConstraint("no token of the model's vocabulary can continue the constraint here")
