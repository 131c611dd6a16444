"""From syntax trees to nondeterministic automata over character classes.

Invariant: the number of states is known, and checked, before the first one is made. Trees are walked with a
stack of their own: their depth is not limited by Python's. Knows nothing of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ramet.grammar.alphabet import Alphabet, Ranges, partition
from ramet.grammar.limits import Budget
from ramet.grammar.nodes import SURROGATES, Alternate, Chars, Concat, Literal, Node, Repeat

START, FINAL = 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class Nfa:
    """An automaton with moves without a character. It starts in `START` and accepts in `FINAL`.

    Attributes:
        edges: for each state its edges: the label, and the state it leads to.
        epsilon: for each state those that can be reached from it at once.
        labels: for each label the character classes of the edge, ascending.
        alphabet: the classes.
    """

    edges: list[list[tuple[int, int]]]
    epsilon: list[list[int]]
    labels: list[tuple[int, ...]]
    alphabet: Alphabet


def build_nfa(node: Node, budget: Budget) -> Nfa:
    """The automaton of a language: Thompson's construction, of edges that are character sets.

    Raises:
        InvalidConstraint: a limit is exceeded.
    """
    nullable = _measure(node, budget)
    builder = _Builder(budget)
    # The part between two states may add moves out of the first and into the last, no others. That lets
    # neighbours share states, and a loop begin and end in the same one.
    tasks: list[tuple[Node, int, int]] = [(node, START, FINAL)]
    while tasks:
        node, begin, end = tasks.pop()
        budget.spend(1)
        match node:
            case Literal(text):
                builder.add_text(text, begin, end)
            case Chars(ranges):
                if ranges:
                    builder.edges[begin].append((builder.label(ranges), end))
            case Concat(parts):
                states = [begin, *builder.states(len(parts) - 1), end]
                if not parts:
                    builder.epsilon[begin].append(end)
                tasks.extend((part, *pair) for part, pair in zip(parts, pairwise(states), strict=False))
            case Alternate(options):
                tasks.extend((option, begin, end) for option in options)
            case Repeat(body, low, high):
                if id(body) in nullable:
                    body, low = _without_empty(body), 0
                if high is None:
                    states = [begin, *builder.states(low or 1)]
                    loop = states[-1]
                    if low:
                        tasks.extend((body, *pair) for pair in pairwise(states))
                    else:
                        builder.epsilon[begin].append(loop)
                    tasks.append((body, loop, loop))
                    builder.epsilon[loop].append(end)
                elif high == 0:
                    builder.epsilon[begin].append(end)
                else:
                    states = [begin, *builder.states(high - 1), end]
                    tasks.extend((body, *pair) for pair in pairwise(states))
                    for state in states[low:-1]:
                        builder.epsilon[state].append(end)
    alphabet, labels = partition(list(builder.sets), budget)
    return Nfa(builder.edges, builder.epsilon, labels, alphabet)


class _Builder:
    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.edges: list[list[tuple[int, int]]] = [[], []]
        self.epsilon: list[list[int]] = [[], []]
        self.sets: dict[Ranges, int] = {}
        self._label_of: dict[int, int] = {}  # by identity: hashing a large class is slow
        self._label_of_character: dict[str, int] = {}

    def states(self, count: int) -> range:
        """That many new states."""
        first = len(self.edges)
        for _ in range(count):
            self.edges.append([])
            self.epsilon.append([])
        return range(first, len(self.edges))

    def label(self, ranges: Ranges) -> int:
        known = self._label_of.get(id(ranges))
        if known is None:
            self._budget.spend(len(ranges))
            known = self._label_of[id(ranges)] = self.sets.setdefault(ranges, len(self.sets))
        return known

    def add_text(self, text: str, begin: int, end: int) -> None:
        self._budget.spend(len(text))
        if not text:
            self.epsilon[begin].append(end)
        for character, state in zip(text, [*self.states(len(text) - 1), end], strict=False):
            label = self._label_of_character.get(character)
            if label is None:
                point = ord(character)
                if SURROGATES[0] <= point <= SURROGATES[1]:
                    return  # no text holds it
                label = self.sets.setdefault(((point, point),), len(self.sets))
                self._label_of_character[character] = label
            self.edges[begin].append((label, state))
            begin = state


def _measure(root: Node, budget: Budget) -> set[int]:
    """The identities of the nodes that match the empty string; checks how many states the tree will need."""
    sizes: dict[int, int] = {}
    nullable: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, is_done = stack.pop()
        if id(node) in sizes:
            continue
        budget.spend(1)
        match node:
            case Literal(text):
                sizes[id(node)] = max(len(text), 1)
                is_nullable = not text
            case Chars():
                sizes[id(node)] = 1
                is_nullable = False
            case Concat(children) | Alternate(children):
                if not is_done:
                    stack.append((node, True))
                    stack.extend((child, False) for child in children)
                    continue
                sizes[id(node)] = max(sum(sizes[id(child)] for child in children), 1)
                empty = (id(child) in nullable for child in children)
                is_nullable = all(empty) if isinstance(node, Concat) else any(empty)
            case Repeat(body, low, high):
                if not is_done:
                    stack.append((node, True))
                    stack.append((body, False))
                    continue
                copies = low + 1 if high is None else high
                sizes[id(node)] = copies * sizes[id(body)] + 1
                is_nullable = low == 0 or id(body) in nullable
        if is_nullable:
            nullable.add(id(node))
        budget.check_nfa_states(sizes[id(node)])
    return nullable


def _without_empty(node: Node) -> Node:
    """A node that matches the same but perhaps the empty string, for what is repeated any number of times.

    Looks through nested optional parts only: elsewhere the empty string does no harm but to speed.
    """
    while isinstance(node, Repeat) and node.low == 0 and node.high == 1:
        node = node.node
    return node
