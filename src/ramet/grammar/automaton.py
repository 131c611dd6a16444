"""Regular languages as minimal automata over the bytes of UTF-8.

The way there: a syntax tree, a nondeterministic automaton over character classes (`nfa`), a deterministic one
and its minimum (`character_dfa`), its bytes (`utf8`), and here their order. Invariant: equal languages give
equal automata. Knows nothing of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ramet.grammar.character_dfa import determinize, minimize
from ramet.grammar.limits import DEFAULT_LIMITS, Budget, Limits
from ramet.grammar.nfa import build_nfa
from ramet.grammar.nodes import Node
from ramet.grammar.utf8 import DEAD, FIRST_CONTINUATION, ByteMoves, to_bytes

__all__ = ["DEFAULT_LIMITS", "Dfa", "Limits", "build_dfa"]

CHUNK = 1024
"""States that are handled together; large arrays between would take longer to allocate than to fill."""


@dataclass(frozen=True, slots=True, eq=False)
class Dfa:
    """A minimal automaton over the UTF-8 bytes of a language. State 0 is the start, the others are numbered
    breadth-first; every state can be reached, and can reach an accepting one.

    Attributes:
        byte_classes: ``[256]`` the class of each byte.
        transitions: ``[num_states, num_classes]`` the next state; -1 where no string of the language goes on.
        accepting: ``[num_states]`` whether the bytes so far are a string of the language.
    """

    byte_classes: NDArray[np.uint8]
    transitions: NDArray[np.int32]
    accepting: NDArray[np.bool_]

    @property
    def num_states(self) -> int:
        return len(self.transitions)


def build_dfa(node: Node, limits: Limits = DEFAULT_LIMITS) -> Dfa:
    """The automaton of a language.

    Raises:
        InvalidConstraint: the language has no string, or a limit is exceeded; the message names it.
    """
    budget = Budget(limits)
    nfa = build_nfa(node, budget)
    minimal = minimize(determinize(nfa, budget), budget)
    moves = to_bytes(minimal, nfa.alphabet, budget)
    order = _breadth_first(moves)
    accepting = np.zeros(len(order), np.bool_)
    accepting[: len(minimal.accepting)] = minimal.accepting
    byte_classes, transitions = _join(moves, order)
    return Dfa(byte_classes, transitions, accepting[order])


def _breadth_first(moves: ByteMoves) -> NDArray[np.int64]:
    """The states in the order in which they are first reached from state 0. All of them are."""
    targets: list[int] = []
    ends = [0]
    for table in (moves.at_start, moves.inside):
        for begin in range(0, len(table), CHUNK):
            rows = table[begin : begin + CHUNK]
            differs = rows != DEAD
            differs[:, 1:] &= rows[:, 1:] != rows[:, :-1]  # most neighbours agree: those are looked at once
            targets.extend(rows[differs].tolist())
            ends.extend((differs.sum(axis=1).cumsum() + ends[-1]).tolist())
    is_known = bytearray(len(ends) - 1)
    is_known[0] = True
    queue = [0]
    for state in queue:  # grows meanwhile
        for target in targets[ends[state] : ends[state + 1]]:
            if not is_known[target]:
                is_known[target] = True
                queue.append(target)
    assert len(queue) == len(is_known), (len(queue), len(is_known))
    return np.array(queue, np.int64)


def _join(moves: ByteMoves, order: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Byte classes, of bytes that no state tells apart, and the transitions of the states in an order."""
    tables = (moves.at_start, moves.inside)
    columns = [np.ascontiguousarray(table.T) for table in tables]
    column_of: list[dict[int, int]] = [
        {byte: column for column, byte in enumerate(moves.start_bytes.tolist())},
        {FIRST_CONTINUATION + column: column for column in range(64)},
    ]
    byte_classes = np.zeros(256, np.uint8)
    class_of: dict[bytes, int] = {}
    chosen: tuple[list[int], list[int]] = ([], [])  # the columns that are the first of their class
    classes: tuple[list[int], list[int]] = ([], [])
    for byte in range(256):
        kind = int(FIRST_CONTINUATION <= byte < FIRST_CONTINUATION + 64)
        column = column_of[kind].get(byte)
        key = b"" if column is None else columns[kind][column].tobytes()
        is_dead = key.count(0xFF) == len(key)  # as all bytes that UTF-8 does not use
        number = class_of.setdefault(b"" if is_dead else bytes([kind]) + key, len(class_of))
        byte_classes[byte] = number
        if column is not None and not is_dead and number not in classes[kind]:
            chosen[kind].append(column)
            classes[kind].append(number)
    place = np.full(len(order) + 1, DEAD, np.int32)  # the last entry is that of DEAD
    place[order] = np.arange(len(order), dtype=np.int32)
    transitions = np.full((len(order), len(class_of)), DEAD, np.int32)
    places = np.split(place[:-1], [len(moves.at_start)])
    for kind, table in enumerate(tables):
        if not classes[kind]:
            continue
        low, high = classes[kind][0], classes[kind][-1] + 1
        is_run = high - low == len(classes[kind])  # a slice is faster
        for begin in range(0, len(table), CHUNK):
            rows = places[kind][begin : begin + CHUNK]
            found = place[table[begin : begin + CHUNK, chosen[kind]]]
            if is_run:
                transitions[rows, low:high] = found
            else:
                transitions[rows[:, None], classes[kind]] = found
    return byte_classes, transitions
