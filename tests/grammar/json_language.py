"""The language of a JSON schema, for tests: which texts are in it, and samples of them."""

import json
import random

import numpy as np

from ramet.grammar.automaton import build_dfa
from ramet.grammar.json_schema import schema_to_node


class Language:
    def __init__(self, schema, whitespace=None):
        self._add(build_dfa(schema_to_node(schema, whitespace)))

    @classmethod
    def of_node(cls, node):
        language = cls.__new__(cls)
        language._add(build_dfa(node))
        return language

    def _add(self, dfa):
        self.dfa = dfa
        self._next = dfa.transitions[:, dfa.byte_classes]  # [num_states, 256]
        self._distance = _distances(dfa)

    def __contains__(self, text):
        state = 0
        for byte in text.encode():
            state = int(self._next[state, byte])
            if state < 0:
                return False
        return bool(self.dfa.accepting[state])

    def has(self, value):
        """Whether the text that `json.dumps` writes for a value is in the language."""
        return json.dumps(value, ensure_ascii=False) in self

    def sample(self, rng: random.Random, length=60):
        """A text of the language: a random walk, from ``length`` bytes on by the shortest way to an end."""
        state, data = 0, bytearray()
        while True:
            (alive,) = np.nonzero(self._next[state] >= 0)
            if self.dfa.accepting[state] and (not len(alive) or len(data) > length or rng.random() < 0.2):
                return data.decode()
            if len(data) > length:
                nearer = self._distance[self._next[state][alive]]
                alive = alive[nearer == nearer.min()]
            # The class first, then a byte of it: else a walk would hardly ever leave the letters of a string.
            classes = self.dfa.byte_classes[alive]
            chosen = rng.choice(sorted(set(classes.tolist())))
            byte = rng.choice(alive[classes == chosen].tolist())
            data.append(byte)
            state = int(self._next[state, byte])


def _distances(dfa):
    """For each state the length of the shortest way to an end."""
    distance = np.where(dfa.accepting, 0, len(dfa.accepting) + 1)
    while True:
        reach = np.where(dfa.transitions >= 0, distance[dfa.transitions] + 1, len(dfa.accepting) + 1)
        better = np.minimum(distance, reach.min(axis=1))
        if (better == distance).all():
            return distance
        distance = better
