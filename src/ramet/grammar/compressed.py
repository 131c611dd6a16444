"""Compressed automata: where only one string of bytes can follow, it is found at once.

The compressed finite state machine of "SGLang: Efficient Execution of Structured Language Model Programs"
(arXiv 2312.07104, section 4): a run of states with a single way on is one edge that carries many bytes. Knows
nothing of tokens.
"""

from __future__ import annotations

import numpy as np

from ramet.grammar.automaton import Dfa


class CompressedFsm:
    """An automaton with its forced bytes. Immutable; memory and the time to build are linear in its states.

    Attributes:
        dfa: the automaton.
    """

    def __init__(self, dfa: Dfa) -> None:
        self.dfa = dfa
        self._num_classes = dfa.transitions.shape[1]
        self._flat = memoryview(np.ascontiguousarray(dfa.transitions).reshape(-1).data)
        self._class_of = dfa.byte_classes.tobytes()
        self._join_chains()

    def forced(self, state: int) -> tuple[bytes, int]:
        """The bytes that every string goes on with from a state, and the state after them.

        None are forced where a string may end or two bytes are possible.
        """
        runs = []
        while (run := self._run_of[state]) >= 0:
            end, following = self._runs[run]
            runs.append(self._bytes[self._offset_of[state] : end])
            state = following
        return b"".join(runs), state

    def walk(self, state: int, data: bytes) -> int:
        """The state after some bytes; -1 if no string of the language goes on with them."""
        flat, num_classes = self._flat, self._num_classes
        for byte_class in data.translate(self._class_of):
            if state < 0:
                return -1
            state = flat[state * num_classes + byte_class]
        return state

    def _join_chains(self) -> None:
        """Lay the forced bytes of all states out in runs.

        States with a single way on form trees: chains may join. One chain goes on through a joint, the others
        end there and name the state where to read on.
        """
        dfa = self.dfa
        num_states = len(dfa.transitions)
        byte_of_class = np.zeros(self._num_classes, np.uint8)  # of use for classes of one byte
        byte_of_class[dfa.byte_classes] = np.arange(256, dtype=np.uint8)
        is_single = np.bincount(dfa.byte_classes, minlength=self._num_classes) == 1
        alive = dfa.transitions >= 0
        states = np.flatnonzero((np.count_nonzero(alive, axis=1) == 1) & ~dfa.accepting)
        classes = alive[states].argmax(axis=1)
        states, classes = states[is_single[classes]], classes[is_single[classes]]
        following = np.full(num_states, -1, np.int64)
        following[states] = dfa.transitions[states, classes]
        byte_at = np.zeros(num_states, np.uint8)
        byte_at[states] = byte_of_class[classes]
        before = np.full(num_states, -1, np.int64)  # for each state the chain's state before it
        before[following[states]] = states
        next_of, last_of, byte_of = following.tolist(), before.tolist(), byte_at.tolist()
        self._run_of = [-1] * num_states
        self._offset_of = [0] * num_states
        self._runs: list[tuple[int, int]] = []  # where the bytes of a run end, and the state after them
        data = bytearray()
        for head in states[before[states] < 0].tolist():
            state, previous = head, -1
            while next_of[state] >= 0 and (previous < 0 or last_of[state] == previous):
                self._run_of[state] = len(self._runs)
                self._offset_of[state] = len(data)
                data.append(byte_of[state])
                state, previous = next_of[state], state
            self._runs.append((len(data), state))
        self._bytes = bytes(data)
