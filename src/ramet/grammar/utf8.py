"""From automata over characters to automata over the bytes of UTF-8.

A character of n bytes passes n - 1 states inside it. What such a state does is a row: for each continuation
byte the next state. Equal rows are one state; so a minimal automaton over characters gives a minimal one over
bytes, since states at different places of a character never accept the same bytes. Knows nothing of patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ramet.grammar.alphabet import OTHER, Alphabet
from ramet.grammar.character_dfa import CharacterDfa
from ramet.grammar.limits import Budget
from ramet.grammar.nodes import MAX_CODE_POINT

NUM_ASCII = 0x80
LEADS = (*range(0xC2, 0xE0), *range(0xE0, 0xF0), *range(0xF0, 0xF5))
"""The bytes that begin characters of 2, 3 and 4 bytes."""
FIRST_CONTINUATION = 0x80
WIDTH = 64 * 4
"""Bytes of a row of 64 entries."""
DEAD = -1


@dataclass(frozen=True, slots=True, eq=False)
class ByteMoves:
    """Where bytes lead; `DEAD` is nowhere.

    Attributes:
        at_start: ``[num_starts, num_columns]`` for the states between characters, the first ones.
        start_bytes: ``[num_columns]`` the bytes of those columns, ascending; the others lead nowhere.
        inside: ``[num_inside, 64]`` for the states inside characters and the continuation bytes.
    """

    at_start: NDArray[np.int32]
    start_bytes: NDArray[np.int64]
    inside: NDArray[np.int32]


def to_bytes(dfa: CharacterDfa, alphabet: Alphabet, budget: Budget) -> ByteMoves:
    """The same language over bytes. States keep their numbers; those inside characters follow.

    Raises:
        InvalidConstraint: a limit is exceeded.
    """
    tree = _CharacterTree(alphabet)
    rows = _Rows(len(dfa.classes), budget)
    next_state = np.full(alphabet.num_classes, DEAD, np.int32)  # of one state at a time
    used = np.flatnonzero(tree.ascii != OTHER)
    at_start = np.full((len(dfa.classes), len(used) + len(LEADS)), DEAD, np.int32)
    classes_used = tree.ascii[used]
    for state, (classes, targets) in enumerate(zip(dfa.classes, dfa.targets, strict=True)):
        budget.spend(1)
        here = np.array(classes, np.int64)
        next_state[here] = targets
        at_start[state, : len(used)] = next_state[classes_used]
        at_start[state, len(used) :] = rows.leads(tree, here[tree.is_beyond[here]], next_state)
        next_state[here] = DEAD
    return ByteMoves(at_start, np.concatenate((used, LEADS)), rows.matrix())


class _CharacterTree:
    """The classes of all characters as a tree of 64 branches per level, equal subtrees shared.

    Attributes:
        ascii: ``[128]`` the class of each ASCII character.
        is_beyond: ``[num_classes]`` whether there are other characters in it.
        levels: for 1, 2 and 3 continuation bytes to come, the nodes: of classes, then of the level before.
            None if there are no other characters.
    """

    def __init__(self, alphabet: Alphabet) -> None:
        self.ascii = alphabet.table(NUM_ASCII)
        self.is_beyond = np.zeros(alphabet.num_classes, np.bool_)
        ends = (*alphabet.starts[1:], MAX_CODE_POINT + 1)
        self.is_beyond[[run for run, end in zip(alphabet.classes, ends, strict=True) if end > NUM_ASCII]] = (
            True
        )
        self.is_beyond[OTHER] = False
        self.levels: tuple[_Level, ...] = ()
        if not self.is_beyond.any():
            return
        table = alphabet.table(0x140000)  # as many as F0 to F4 could begin
        table[:NUM_ASCII] = OTHER  # they have no such bytes
        ones, node_of_64 = _distinct_rows(table)
        long_enough = node_of_64.copy()
        long_enough[: 0x800 // 64] = node_of_64[-1]  # dead: three bytes are for what two cannot say
        twos, node_of_4096 = _distinct_rows(long_enough)
        long_enough = node_of_4096.copy()
        long_enough[: 0x10000 // 4096] = node_of_4096[-1]
        threes, node_of_262144 = _distinct_rows(long_enough)
        self.levels = (
            _Level(ones, node_of_64[2:32], alphabet.num_classes),
            _Level(twos, node_of_4096[:16], len(ones)),
            _Level(threes, node_of_262144, len(twos)),
        )


class _Level:
    """The nodes of one level.

    Attributes:
        nodes: ``[num_nodes, 64]``
        leads: the nodes that the bytes of `LEADS` lead to, those for characters of this many bytes.
    """

    def __init__(self, nodes: NDArray[np.int32], leads: NDArray[np.int32], num_entries: int) -> None:
        self.nodes = nodes
        self.leads = leads
        # For each entry the nodes that have it.
        owners = np.repeat(np.arange(len(nodes)), 64)
        pairs = np.unique(nodes.reshape(-1) * np.int64(len(nodes)) + owners)
        entries, self._owners = np.divmod(pairs, len(nodes))
        self._bounds = np.searchsorted(entries, np.arange(num_entries + 1))

    def having(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """The nodes with one of these entries; perhaps more, where the entries are many."""
        if len(entries) * 4 > len(self.nodes):
            return np.arange(len(self.nodes))
        bounds = self._bounds
        found = [self._owners[bounds[entry] : bounds[entry + 1]] for entry in entries.tolist()]
        return np.unique(np.concatenate([entries[:0], *found]))


def _distinct_rows(entries: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The different ones among the rows of 64 entries, and for each row which it is."""
    rows = entries.reshape(-1, 64)
    # Nearly all rows have one entry 64 times over: only the others are compared as a whole.
    is_constant = (rows == rows[:, :1]).all(axis=1)
    values, inverse = np.unique(rows[is_constant, 0], return_inverse=True)
    which = np.empty(len(rows), np.int32)
    which[is_constant] = inverse
    number_of: dict[bytes, int] = {}
    for index in np.flatnonzero(~is_constant).tolist():
        which[index] = len(values) + number_of.setdefault(rows[index].tobytes(), len(number_of))
    others = np.frombuffer(b"".join(number_of), np.int32).reshape(-1, 64)
    return np.concatenate((np.repeat(values[:, None], 64, axis=1), others)), which


class _Rows:
    """The states inside characters, numbered from ``first`` on."""

    def __init__(self, first: int, budget: Budget) -> None:
        self._first = first
        self._budget = budget
        self._number_of: dict[bytes, int] = {}
        self._number_of_constant = {DEAD: DEAD}
        self._known: dict[bytes, NDArray[np.int32]] = {}

    def leads(
        self, tree: _CharacterTree, classes: NDArray[np.int64], next_state: NDArray[np.int32]
    ) -> NDArray[np.int32] | int:
        """Where each byte of `LEADS` goes in a state that goes to ``next_state`` [num_classes].

        ``classes`` are those that have characters of several bytes and go somewhere.
        """
        if not len(classes):
            return DEAD
        key = classes.tobytes() + next_state[classes].tobytes()
        known = self._known.get(key)
        if known is None:
            found = []
            entries, following = classes, next_state
            for level in tree.levels:
                entries = level.having(entries)
                numbers = np.full(len(level.nodes), DEAD, np.int32)
                numbers[entries] = self._states(following[level.nodes[entries]])
                found.append(numbers[level.leads])
                following = numbers
            known = self._known[key] = np.concatenate(found)
        return known

    def _states(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """The states that do what these rows ``[num_rows, 64]`` say."""
        self._budget.spend(len(rows))
        is_constant = (rows == rows[:, :1]).all(axis=1)
        numbers = np.empty(len(rows), np.int32)
        numbers[is_constant] = [self._constant(entry) for entry in rows[is_constant, 0].tolist()]
        data = rows[~is_constant].tobytes()
        numbers[~is_constant] = [self._number(data[at : at + WIDTH]) for at in range(0, len(data), WIDTH)]
        num_states = self._first + len(self._number_of)
        self._budget.check_states(num_states)
        return numbers

    def _number(self, row: bytes) -> int:
        return self._number_of.setdefault(row, self._first + len(self._number_of))

    def _constant(self, entry: int) -> int:
        """The state of a row with one entry 64 times over."""
        number = self._number_of_constant.get(entry)
        if number is None:
            number = self._number_of_constant[entry] = self._number(np.full(64, entry, np.int32).tobytes())
        return number

    def matrix(self) -> NDArray[np.int32]:
        """``[num_rows, 64]``: what the states do, in the order of their numbers."""
        return np.frombuffer(b"".join(self._number_of), np.int32).reshape(-1, 64)
