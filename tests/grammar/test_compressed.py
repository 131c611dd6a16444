"""Compressed automata: forced bytes are those that every string goes on with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regex_patterns import patterns_and_texts, walk

from ramet.errors import InvalidConstraint
from ramet.grammar.automaton import Dfa, build_dfa
from ramet.grammar.compressed import CompressedFsm
from ramet.grammar.nodes import Alternate, Literal
from ramet.grammar.regex import parse_regex


def compressed(pattern: str) -> CompressedFsm:
    return CompressedFsm(build_dfa(parse_regex(pattern)))


def forced_by_definition(dfa: Dfa, state: int) -> tuple[bytes, int]:
    forced = bytearray()
    while not dfa.accepting[state]:
        going_on = [byte for byte in range(256) if dfa.transitions[state, dfa.byte_classes[byte]] >= 0]
        if len(going_on) != 1:
            break
        forced.append(going_on[0])
        state = int(dfa.transitions[state, dfa.byte_classes[going_on[0]]])
    return bytes(forced), state


def test_what_is_forced_in_an_object():
    fsm = compressed(r'\{"name": "[a-z]+", "house": "(Gryffindor|Gringotts)"\}')
    begin, inside = fsm.forced(0)
    assert begin == b'{"name": "'
    assert fsm.forced(inside) == (b"", inside)
    after = fsm.walk(inside, b'harry"')
    assert fsm.forced(after)[0] == b', "house": "Gr'
    branch = fsm.walk(after, b', "house": "Gry')
    assert fsm.forced(branch)[0] == b'ffindor"}'
    assert fsm.walk(0, b'{"name": "harry", "house": "Gringotts"}') == fsm.forced(branch)[1]


def test_nothing_is_forced_where_a_text_may_end():
    fsm = compressed("a(bc)?")
    assert fsm.forced(0) == (b"a", fsm.walk(0, b"a"))
    assert fsm.forced(fsm.walk(0, b"a")) == (b"", fsm.walk(0, b"a"))
    assert fsm.forced(fsm.walk(0, b"ab"))[0] == b"c"


def test_bytes_that_characters_share_are_forced():
    fsm = compressed("[é-ï]")  # C3 A9 to C3 AF
    assert fsm.forced(0)[0] == b"\xc3"


def test_two_bytes_of_one_class_are_a_choice():
    assert compressed("[ab]c").forced(0) == (b"", 0)


def test_nothing_survives_a_dead_end():
    fsm = compressed("abc")
    assert fsm.walk(0, b"") == 0
    assert fsm.walk(0, b"ax") == fsm.walk(0, b"axc") == fsm.walk(-1, b"") == fsm.walk(-1, b"a") == -1


@settings(max_examples=150, deadline=None)
@given(patterns_and_texts(), st.binary(max_size=4))
def test_forced_bytes_and_walks_of_patterns(drawn, data):
    pattern, texts = drawn
    try:
        fsm = compressed(pattern)
    except InvalidConstraint:
        return
    for state in range(min(fsm.dfa.num_states, 200)):
        assert fsm.forced(state) == forced_by_definition(fsm.dfa, state)
        assert fsm.walk(state, data) == walk(fsm.dfa, data, state)
    for text in texts:
        assert fsm.walk(0, text.encode()) == walk(fsm.dfa, text.encode())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=12), min_size=1, max_size=6))
def test_forced_bytes_where_chains_join(words):
    fsm = CompressedFsm(build_dfa(Alternate(tuple(Literal(word + "common end") for word in words))))
    for state in range(fsm.dfa.num_states):
        assert fsm.forced(state) == forced_by_definition(fsm.dfa, state)


@pytest.mark.parametrize("length", [1, 10_000])
def test_a_long_literal_is_one_edge(length):
    text = ("abcé" * length)[:length]
    fsm = CompressedFsm(build_dfa(Literal(text)))
    data = text.encode()
    for state in {0, len(data) // 2, len(data) - 1, len(data)}:
        assert fsm.forced(state) == (data[state:], len(data))
    assert fsm.walk(0, data) == len(data)


def test_states_are_plain_integers():
    fsm = compressed("abc[de]")
    assert type(fsm.forced(0)[1]) is int and type(fsm.walk(0, b"a")) is int
    assert not isinstance(fsm.walk(0, b"a"), np.integer)
