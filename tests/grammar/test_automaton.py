"""Automata: minimal, over exactly the UTF-8 of their languages, and within their limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regex_patterns import accepts, patterns_and_texts

from ramet.errors import InvalidConstraint
from ramet.grammar.automaton import Dfa, Limits, build_dfa
from ramet.grammar.nodes import (
    EMPTY,
    Alternate,
    Chars,
    Concat,
    Literal,
    Node,
    Repeat,
    any_of,
    chars,
    complement,
    optional,
)
from ramet.grammar.regex import parse_regex

BOUNDARIES = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x3FFFF, 0x40000, 0x10FFFF]
NOTHING = Chars(())


# ------------------------------------------------------------------------------------------- the model


def ends(node: Node, text: str, starts: set[int]) -> set[int]:
    """Where the node can end when it begins at one of these places: the meaning of the tree."""
    match node:
        case Literal(literal):
            return {start + len(literal) for start in starts if text.startswith(literal, start)}
        case Chars(ranges):
            return {
                start + 1
                for start in starts
                if start < len(text) and any(low <= ord(text[start]) <= high for low, high in ranges)
            }
        case Concat(parts):
            for part in parts:
                starts = ends(part, text, starts)
            return starts
        case Alternate(options):
            return set().union(*(ends(option, text, starts) for option in options))
        case Repeat(body, low, high):
            for _ in range(low):
                starts = ends(body, text, starts)
            found = set(starts)
            for _ in range(len(text) + 1 if high is None else high - low):
                starts = ends(body, text, starts)
                found |= starts
            return found


def nodes() -> st.SearchStrategy[Node]:
    literals = st.text("abé", max_size=3).map(Literal)
    sets = st.text("abcé文😀", min_size=1, max_size=3).map(any_of)
    leaves = st.one_of(literals, sets, sets.map(complement), st.just(NOTHING))

    def extend(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        several = st.lists(inner, max_size=3).map(tuple)
        counts = st.tuples(st.integers(0, 2), st.one_of(st.none(), st.integers(0, 2)))
        return st.one_of(
            several.map(Concat),
            several.map(Alternate),
            st.builds(
                lambda node, count: Repeat(node, count[0], None if count[1] is None else sum(count)),
                inner,
                counts,
            ),
        )

    return st.recursive(leaves, extend, max_leaves=10)


def assert_minimal(dfa: Dfa) -> None:
    """All states reached in order, all with an end, no two alike, no two byte classes alike."""
    transitions, accepting = dfa.transitions, dfa.accepting
    num_states, num_classes = transitions.shape
    assert (
        dfa.byte_classes.dtype == np.uint8 and transitions.dtype == np.int32 and accepting.dtype == np.bool_
    )
    assert transitions.min() >= -1 and transitions.max() < num_states
    assert list(dict.fromkeys(dfa.byte_classes.tolist())) == list(range(num_classes))
    assert len({column.tobytes() for column in transitions.T}) == num_classes
    assert breadth_first(transitions) == list(range(num_states))
    alive = accepting.copy()
    for _ in range(num_states):
        alive |= (alive[transitions] & (transitions >= 0)).any(axis=1)
    assert alive.all()
    blocks = accepting.astype(np.int64)
    for _ in range(num_states):  # Moore's algorithm, a character further each time
        signatures = np.column_stack((blocks, np.where(transitions >= 0, blocks[transitions], -1)))
        blocks = np.unique(signatures, axis=0, return_inverse=True)[1].reshape(-1)
    assert len(np.unique(blocks)) == num_states


def breadth_first(transitions: np.ndarray) -> list[int]:
    order, frontier = {0: None}, [0]
    while frontier:
        found = dict.fromkeys(target for state in frontier for target in transitions[state].tolist())
        frontier = [target for target in found if target >= 0 and target not in order]
        order.update(dict.fromkeys(frontier))
    return list(order)


def equal(left: Dfa, right: Dfa) -> bool:
    return (
        np.array_equal(left.byte_classes, right.byte_classes)
        and np.array_equal(left.transitions, right.transitions)
        and np.array_equal(left.accepting, right.accepting)
    )


# --------------------------------------------------------------------------------- language and minimum


@settings(max_examples=300, deadline=None)
@given(nodes(), st.lists(st.text("abcé文😀", max_size=5), max_size=20))
def test_an_automaton_accepts_what_its_tree_means(node, texts):
    expected = {text: len(text) in ends(node, text, {0}) for text in ["", *texts]}
    try:
        dfa = build_dfa(node)
    except InvalidConstraint:
        assert not any(expected.values())
        return
    assert {text: accepts(dfa, text.encode()) for text in expected} == expected
    assert_minimal(dfa)


@settings(max_examples=60, deadline=None)
@given(patterns_and_texts())
def test_automata_of_patterns_are_minimal(drawn):
    try:
        dfa = build_dfa(parse_regex(drawn[0]))
    except InvalidConstraint:
        return
    if dfa.num_states < 500:
        assert_minimal(dfa)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("a|b|c", "[a-c]"),
        ("aa*", "a+"),
        ("a?a*", "a*"),
        ("(a|b)*", "(a*b*)*"),
        ("(a*b*)*", "(b|a+)*"),
        ("x(a|é)y|x[文]y", "x[aé文]y"),
        ("(a?){3}", "a{0,3}"),
        ("(a{2}){3}", "a{6}"),
        ("a{2,}|a", "a+"),
        ("ab*c|db*c", "[ad]b*c"),
        ("([ab]{3})*|[ab]{3}([ab]{3})*", "([ab]{3})*"),
        (r"[\s\S]", "(?s)."),
        ("[^é]|é", "(?s)."),
        ("é*(éé)*", "é*"),
    ],
)
def test_equal_languages_give_equal_automata(left, right):
    assert equal(build_dfa(parse_regex(left)), build_dfa(parse_regex(right)))


def test_a_literal_is_a_chain():
    dfa = build_dfa(Literal("né"))
    assert dfa.num_states == 4
    assert dfa.accepting.tolist() == [False, False, False, True]
    assert dfa.byte_classes[ord("n")] == 1
    assert dfa.transitions.tolist() == [[-1, 1, -1, -1], [-1, -1, -1, 2], [-1, -1, 3, -1], [-1] * 4]


def test_the_empty_text_is_a_language():
    dfa = build_dfa(EMPTY)
    assert (dfa.num_states, dfa.accepting.tolist(), dfa.transitions.max()) == (1, [True], -1)


# ----------------------------------------------------------------------------------------------- UTF-8


@pytest.mark.parametrize("low", BOUNDARIES)
def test_ranges_between_the_boundaries_of_utf8(low):
    near = {point + offset for point in BOUNDARIES for offset in (-65, -64, -1, 0, 1, 63, 64)}
    for high in BOUNDARIES:
        if high < low:
            continue
        dfa = build_dfa(chars((low, high)))
        for point in near:
            if 0 <= point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF:
                assert accepts(dfa, chr(point).encode()) == (low <= point <= high), (high, point)
        assert_minimal(dfa)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=5))
def test_bytes_that_are_not_utf8_are_never_accepted(data):
    dfa = build_dfa(Repeat(complement(NOTHING), 0, None))
    try:
        data.decode()
    except UnicodeDecodeError:
        assert not accepts(dfa, data)
    else:
        assert accepts(dfa, data)


@pytest.mark.parametrize(
    "data",
    [b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80",
     b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\x80", b"\xff"],
)  # fmt: skip
def test_overlong_forms_surrogates_and_what_is_beyond_unicode_are_dead(data):
    assert not accepts(build_dfa(complement(NOTHING)), data)


def test_text_that_cannot_be_encoded_is_no_string():
    dfa = build_dfa(Alternate((Literal("a\ud800"), Literal("b"))))
    assert equal(dfa, build_dfa(Literal("b")))


# ---------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    "node", [NOTHING, Alternate(()), Concat((Literal("a"), NOTHING)), Repeat(NOTHING, 1, None)]
)
def test_a_language_without_strings_is_refused(node):
    with pytest.raises(InvalidConstraint, match="no string at all"):
        build_dfa(node)


@pytest.mark.parametrize(
    ("pattern", "limit"),
    [
        (r"[^\x00-\U0010ffff]", "no string at all"),
        ("(a|b)*a(a|b){20}", "max_states=65,536"),
        ("((a{1000}){1000}){1000}", "max_nfa_states=131,072"),
        ("(" * 10_000 + "a" + ")" * 10_000, "nested deeper than 200"),
        ("a" * 1_000_000, "more than 65,536 characters"),
        ("(a?){5000}(a){5000}", "max_work=3,000,000"),
        (r"[\p{L}]{5000}", "max_states=65,536"),
        (r"[\p{L}]" * 9000, "max_states=65,536"),
        (r"\w{10000}", "max_states=65,536"),
        (".*foo.{0,300}bar", "max_states|max_work"),
        ("(a*)*" * 10_000, "max_work=3,000,000"),
        ("".join(f"[a-{chr(0x4E00 + index)}]" for index in range(6000)), "max_work=3,000,000"),
        ("(" * 30 + "a" + "{0,2})" * 30, "max_nfa_states=131,072"),
    ],
    ids=range(13),
)
def test_hostile_patterns_are_refused(pattern, limit):
    with pytest.raises(InvalidConstraint, match=limit):
        build_dfa(parse_regex(pattern), Limits(seconds=60))  # whatever else the machine does


@pytest.mark.parametrize(
    ("pattern", "num_states"),
    [
        ("[a-z ]{0,500}", 501),
        ('"[^"\\\\\\x00-\\x1f]{0,200}"', 1603),
        ("ab" * 5000, 10_001),
        ("([a-z]+ ){1,2000}", 4001),
        ("(" * 200 + "a" + ")*" * 200, 1),
        ("()" * 30_000, 1),
        ("(()()()){10000}", 1),
        ("|" * 60_000, 1),
        ("(a?){10000}", 10_001),
    ],
    ids=range(9),
)
def test_large_patterns_are_built(pattern, num_states):
    assert build_dfa(parse_regex(pattern), Limits(seconds=60)).num_states == num_states


def test_a_thousand_choices_share_what_they_can():
    dfa = build_dfa(Alternate(tuple(Literal(f"choice {number:03d}!") for number in range(1000))))
    assert dfa.num_states == len("choice 000!") + 1


def test_a_tree_that_shares_its_parts_is_measured_before_it_is_written_out():
    node: Node = Literal("a")
    for _ in range(60):
        node = Concat((node, node))
    with pytest.raises(InvalidConstraint, match="max_nfa_states"):
        build_dfa(node)


def test_trees_may_be_deep():
    node: Node = Literal("a")
    for _ in range(5000):
        node = optional(Concat((Literal("b"), node)))
    dfa = build_dfa(node)
    assert accepts(dfa, b"b" * 5000 + b"a") and accepts(dfa, b"") and not accepts(dfa, b"ba")


def test_limits_can_be_set():
    node = Repeat(any_of("ab"), 0, 50)
    assert build_dfa(node, Limits(max_states=51)).num_states == 51
    with pytest.raises(InvalidConstraint, match="max_states=50"):
        build_dfa(node, Limits(max_states=50))
    with pytest.raises(InvalidConstraint, match="max_nfa_states=40"):
        build_dfa(node, Limits(max_nfa_states=40))
    with pytest.raises(InvalidConstraint, match="more than 0 seconds"):
        build_dfa(Literal("a" * 20_000), Limits(seconds=0))
