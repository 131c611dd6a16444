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
    at_start = np.ascontiguousarray(moves.at_start.T)
    inside = np.ascontiguousarray(moves.inside.T)
    column_of = {byte: column for column, byte in enumerate(moves.start_bytes.tolist())}
    class_of: dict[bytes, int] = {}
    byte_classes = np.zeros(256, np.uint8)
    start_columns: list[tuple[int, int]] = []  # class and column
    inside_columns: list[tuple[int, int]] = []
    for byte in range(256):
        is_inside = FIRST_CONTINUATION <= byte < FIRST_CONTINUATION + 64
        column = byte - FIRST_CONTINUATION if is_inside else column_of.get(byte, -1)
        key = (inside if is_inside else at_start)[column].tobytes() if column >= 0 else b""
        if key.count(b"\xff") == len(key):
            key = b""  # dead everywhere, as all bytes that UTF-8 does not use
        number = class_of.setdefault(bytes([is_inside]) + key if key else b"", len(class_of))
        byte_classes[byte] = number
        if key and number + 1 == len(class_of):
            (inside_columns if is_inside else start_columns).append((number, column))
    place = np.full(len(order) + 1, DEAD, np.int32)  # the last entry is that of DEAD
    place[order] = np.arange(len(order), dtype=np.int32)
    transitions = np.full((len(order), len(class_of)), DEAD, np.int32)
    num_starts = len(moves.at_start)
    for first, table, columns in (
        (0, moves.at_start, start_columns),
        (num_starts, moves.inside, inside_columns),
    ):
        if not columns:
            continue
        classes, chosen = map(list, zip(*columns, strict=True))
        for begin in range(0, len(table), CHUNK):
            rows = table[begin : begin + CHUNK, chosen]
            places = place[first + begin : first + begin + len(rows)]
            transitions[np.ix_(places, classes)] = place[rows]
    return byte_classes, transitions
