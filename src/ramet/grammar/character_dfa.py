"""Deterministic automata over character classes: made from nondeterministic ones, and minimised.

Working on characters keeps them small: one state of a class such as ``\\w`` becomes hundreds when its bytes
are written out, and that happens once, at the end (`utf8`). Knows nothing of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ramet.errors import InvalidConstraint
from ramet.grammar.limits import Budget
from ramet.grammar.nfa import FINAL, START, Nfa


@dataclass(frozen=True, slots=True, eq=False)
class CharacterDfa:
    """A partial automaton. State 0 is the start.

    Attributes:
        classes: for each state the character classes it goes on with, ascending.
        targets: for each state, and each of those classes, the next state.
        accepting: for each state whether the text may end.
    """

    classes: list[tuple[int, ...]]
    targets: list[tuple[int, ...]]
    accepting: list[bool]


def determinize(nfa: Nfa, budget: Budget) -> CharacterDfa:
    """The subset construction: a state is the set of the automaton's states that a text may lead to.

    Raises:
        InvalidConstraint: a limit is exceeded.
    """
    return _Determinizer(nfa, budget).run()


class _Determinizer:
    def __init__(self, nfa: Nfa, budget: Budget) -> None:
        self._nfa = nfa
        self._budget = budget
        self._number_of: dict[tuple[int, ...], int] = {}
        self._sets: list[tuple[int, ...]] = []
        self._closures: dict[int, tuple[int, ...]] = {}

    def run(self) -> CharacterDfa:
        edges, labels = self._nfa.edges, self._nfa.labels
        all_classes: list[tuple[int, ...]] = []
        all_targets: list[tuple[int, ...]] = []
        self._number([START])
        for current in self._sets:  # grows meanwhile
            targets_of: dict[int, list[int]] = {}  # of the labels
            for state in current:
                for label, target in edges[state]:
                    targets_of.setdefault(label, []).append(target)
            if len(targets_of) == 1:
                [(label, targets)] = targets_of.items()
                number = self._number(targets)
                classes = labels[label] if number >= 0 else ()
                self._budget.spend(len(classes))
                all_classes.append(classes)
                all_targets.append((number,) * len(classes))
            else:
                moves = self._moves(targets_of)
                all_classes.append(tuple(moves))
                all_targets.append(tuple(moves.values()))
        return CharacterDfa(all_classes, all_targets, [FINAL in members for members in self._sets])

    def _moves(self, targets_of: dict[int, list[int]]) -> dict[int, int]:
        """The next state for each class, ascending. Classes of the same labels need one look only."""
        labels_of: dict[int, list[int]] = {}
        for label in targets_of:
            classes = self._nfa.labels[label]
            self._budget.spend(len(classes))
            for character_class in classes:
                labels_of.setdefault(character_class, []).append(label)
        moves: dict[int, int] = {}
        known: dict[tuple[int, ...], int] = {}
        for character_class in sorted(labels_of):
            labels = tuple(labels_of[character_class])
            number = known.get(labels)
            if number is None:
                number = self._number([target for label in labels for target in targets_of[label]])
                known[labels] = number
            if number >= 0:
                moves[character_class] = number
        return moves

    def _number(self, targets: list[int]) -> int:
        """The number of the set that these states and moves without a character lead to; -1 if empty."""
        if len(targets) == 1:
            key = self._closure(targets[0])
        else:
            self._budget.spend(len(targets))
            key = tuple(sorted(set().union(*map(self._closure, targets))))
        number = self._number_of.get(key)
        if number is None:
            if not key:
                return -1
            number = self._number_of[key] = len(self._sets)
            self._sets.append(key)
            self._budget.spend(len(key))
            self._budget.check_states(len(self._sets))
        return number

    def _closure(self, state: int) -> tuple[int, ...]:
        """The states with edges, and `FINAL`, that can be reached without a character, ascending."""
        known = self._closures.get(state)
        if known is not None:
            self._budget.spend(len(known))
            return known
        edges, epsilon = self._nfa.edges, self._nfa.epsilon
        seen, stack = {state}, [state]
        while stack:
            for following in epsilon[stack.pop()]:
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
        self._budget.spend(len(seen))
        closure = tuple(sorted(reached for reached in seen if edges[reached] or reached == FINAL))
        self._closures[state] = closure
        return closure


def minimize(dfa: CharacterDfa, budget: Budget) -> CharacterDfa:
    """The smallest automaton of the same language: no two of its states accept the same texts.

    States that cannot reach an accepting one go first. Then blocks of states are split by where their moves
    lead until nothing changes; the largest part of a block keeps its name, so that only the neighbours of the
    others are looked at again: O(m log n) looks for m moves between n states, after Hopcroft (1971) in the
    n-way form of Jacobs and Wissmann, "Fast Coalgebraic Bisimilarity Minimization" (2023).

    Raises:
        InvalidConstraint: the language has no string, or a limit is exceeded.
    """
    sources: list[list[int]] = [[] for _ in dfa.targets]
    for state, targets in enumerate(dfa.targets):
        budget.spend(len(targets))
        for target in set(targets):
            sources[target].append(state)
    distances = _distances_to_end(sources, dfa.accepting)
    if not distances or distances[0] < 0:
        raise InvalidConstraint("no string at all meets the constraint")
    classes, targets_of = _without_dead(dfa, distances)
    # Equal states go on with the same characters and are equally far from an end: a good start.
    keys = [key if key[0] >= 0 else None for key in zip(distances, classes, strict=True)]
    blocks = _refine(keys, targets_of, sources, budget)
    first = {block: state for state, block in reversed(list(enumerate(blocks))) if block >= 0}
    kept = sorted(first.values())
    number_of = {blocks[state]: number for number, state in enumerate(kept)}
    return CharacterDfa(
        [classes[state] for state in kept],
        [tuple([number_of[blocks[target]] for target in targets_of[state]]) for state in kept],
        [dfa.accepting[state] for state in kept],
    )


def _distances_to_end(sources: list[list[int]], accepting: list[bool]) -> list[int]:
    """For each state the length of the shortest text it accepts; -1 if there is none."""
    distances = [0 if accepts else -1 for accepts in accepting]
    queue = [state for state, accepts in enumerate(accepting) if accepts]
    for state in queue:  # grows meanwhile
        for source in sources[state]:
            if distances[source] < 0:
                distances[source] = distances[state] + 1
                queue.append(source)
    return distances


def _without_dead(
    dfa: CharacterDfa, distances: list[int]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The moves that do not lead to a state without an end."""
    if min(distances) >= 0:
        return dfa.classes, dfa.targets
    classes: list[tuple[int, ...]] = []
    targets: list[tuple[int, ...]] = []
    for row in zip(dfa.classes, dfa.targets, strict=True):
        alive = [move for move in zip(*row, strict=True) if distances[move[1]] >= 0]
        classes.append(tuple([character_class for character_class, _ in alive]))
        targets.append(tuple([target for _, target in alive]))
    return classes, targets


def _refine(
    keys: Sequence[tuple[int, tuple[int, ...]] | None],
    targets_of: list[tuple[int, ...]],
    sources: list[list[int]],
    budget: Budget,
) -> list[int]:
    """The block of each state in the coarsest stable partition that keeps the keys apart; -1 for no key."""
    names: dict[object, int] = {}
    block_of: list[int] = []
    members: list[set[int]] = []
    for state, key in enumerate(keys):
        block = -1 if key is None else names.setdefault(key, len(names))
        block_of.append(block)
        if block == len(members):
            members.append(set())
        if block >= 0:
            members[block].add(state)
    # Those members of a block whose moves may lead to other blocks than before; the moves of the rest agree.
    changed = {block: set(states) for block, states in enumerate(members) if len(states) > 1}
    while changed:
        block, looked_at = changed.popitem()
        parts: dict[tuple[int, ...], list[int]] = {}
        unchanged = next((state for state in members[block] if state not in looked_at), None)
        if unchanged is not None:
            parts[tuple(map(block_of.__getitem__, targets_of[unchanged]))] = []
        for state in looked_at:
            budget.spend(len(targets_of[state]))
            parts.setdefault(tuple(map(block_of.__getitem__, targets_of[state])), []).append(state)
        lists = list(parts.values())
        rest_size = len(members[block]) - len(looked_at)  # belongs to the first part
        sizes = [len(part) + (rest_size if index == 0 else 0) for index, part in enumerate(lists)]
        largest = sizes.index(max(sizes))
        if rest_size and largest:
            lists[0].extend(members[block] - looked_at)
        moved: list[int] = []
        for index, part in enumerate(lists):
            if index != largest:
                members[block].difference_update(part)
                for state in part:
                    block_of[state] = len(members)
                members.append(set(part))
                moved.extend(part)
        for state in moved:
            for source in sources[state]:
                its_block = block_of[source]
                if its_block >= 0 and len(members[its_block]) > 1:
                    changed.setdefault(its_block, set()).add(source)
    return block_of
