"""The mask of every state is what a loop over all tokens says, in the kernels and in NumPy."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet import kernels
from ramet.errors import UnsupportedFeature
from ramet.grammar import token_index
from ramet.grammar.automaton import Dfa
from ramet.grammar.token_index import TokenIndex
from ramet.store import resolve_model
from ramet.tokenizer import load_tokenizer
from ramet.tokenizer.vocab import Vocab

NATIVE = kernels.load_native()
WALKS = [False] if NATIVE is None else [True, False]
ANY_BYTE = bytes(range(256))


@pytest.fixture(params=WALKS, ids=lambda native: "native" if native else "numpy")
def native(request):
    return request.param


# ------------------------------------------------------------------------------------ builders and the model


def vocab_of(*tokens, special=()):
    return Vocab(tuple(tokens), tuple(map(repr, tokens)), frozenset(special))


def dfa_of(*states, accepting=()):
    """Each state as ``{bytes: next state}``. Bytes that no state tells apart get the same class."""
    table = np.full((len(states), 256), -1, np.int32)
    for state, roads in enumerate(states):
        for data, to in roads.items():
            table[state, list(data)] = to
    columns, classes = np.unique(table, axis=1, return_inverse=True)
    is_accepting = np.isin(np.arange(len(states)), accepting)
    return Dfa(classes.reshape(256).astype(np.uint8), np.ascontiguousarray(columns, np.int32), is_accepting)


def text_dfa(num_chars=None, *, without=b""):
    """Text as UTF-8 but for some ASCII characters; of any length, or of at most ``num_chars``."""
    count = 1 if num_chars is None else num_chars + 1
    states = [{} for _ in range(4 * count)]  # state 4 i: i whole characters; 4 i + k: k bytes are missing
    for i in range(count):
        after = 0 if num_chars is None else 4 * (i + 1)
        if after < len(states):
            ascii_bytes = bytes(set(range(128)) - set(without))
            leads = {bytes(range(0xC2, 0xE0)): 1, bytes(range(0xE0, 0xF0)): 2, bytes(range(0xF0, 0xF5)): 3}
            states[4 * i] = {ascii_bytes: after, **{data: 4 * i + k for data, k in leads.items()}}
            for k in (1, 2, 3):
                states[4 * i + k] = {bytes(range(0x80, 0xC0)): after if k == 1 else 4 * i + k - 1}
    return dfa_of(*states)


def walk(dfa, state, data):
    for byte in data:
        if state < 0:
            return -1
        state = int(dfa.transitions[state, dfa.byte_classes[byte]])
    return state


def allowed_by_loop(vocab, vocab_size, dfa, state):
    return [
        token_id
        for token_id, data in enumerate(vocab.token_bytes[:vocab_size])
        if data and token_id not in vocab.special_ids and walk(dfa, state, data) >= 0
    ]


def crosses_by_loop(vocab, vocab_size, dfa, state, tail):
    return any(
        data.startswith(tail) and len(data) > len(tail) and walk(dfa, state, data[len(tail) :]) >= 0
        for token_id, data in enumerate(vocab.token_bytes[:vocab_size])
        if token_id not in vocab.special_ids
    )


def ids_of(mask):
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


# ------------------------------------------------------------------------------------------- examples

WORDS = vocab_of(b"<eos>", b"a", b"an", b"and", b"b", "é".encode(), "é".encode()[:1], b"", b"an", special=[0])


def test_tokens_that_keep_the_automaton_alive(native):
    index = TokenIndex(WORDS, len(WORDS), native=native)
    an = dfa_of({b"a": 1}, {b"n": 2}, {}, accepting=[2])
    assert ids_of(index.allowed(an, 0)) == [1, 2, 8]  # two tokens spell "an"
    assert ids_of(index.allowed(an, 1)) == []
    assert ids_of(index.allowed(an, 2)) == []
    e_acute = dfa_of({b"\xc3": 1, b"a": 2}, {b"\xa9": 2}, {}, accepting=[2])
    assert ids_of(index.allowed(e_acute, 0)) == [1, 5, 6]


def test_special_tokens_and_empty_ones_are_never_allowed(native):
    index = TokenIndex(WORDS, len(WORDS), native=native)
    assert ids_of(index.allowed(dfa_of({ANY_BYTE: 0}), 0)) == [1, 2, 3, 4, 5, 6, 8]


def test_a_token_that_may_go_on_past_the_tail(native):
    index = TokenIndex(WORDS, len(WORDS), native=native)
    only_d = dfa_of({b"d": 1}, {})
    assert index.crosses(only_d, 0, b"an")
    assert not index.crosses(only_d, 0, b"a")  # "an" and "and" go on with "n"
    assert not index.crosses(only_d, 0, b"and")  # none is longer
    assert not index.crosses(only_d, 0, b"x")
    assert not index.crosses(only_d, 1, b"an")
    assert index.crosses(dfa_of({b"b": 0}), 0, b"")


@pytest.mark.parametrize("vocab_size", [1, 5, 9, 31, 32, 33, 100])
def test_a_model_may_have_more_or_fewer_rows_than_tokens(native, vocab_size):
    index = TokenIndex(WORDS, vocab_size, native=native)
    mask = index.allowed(dfa_of({ANY_BYTE: 0}), 0)
    assert mask.dtype == np.uint32
    assert mask.shape == (index.num_words,) == (-(-vocab_size // 32),)
    assert ids_of(mask) == [token_id for token_id in (1, 2, 3, 4, 5, 6, 8) if token_id < vocab_size]


def test_a_mask_is_read_only(native):
    mask = TokenIndex(WORDS, len(WORDS), native=native).allowed(dfa_of({b"a": 0}), 0)
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = 0


def test_a_vocabulary_without_text(native):
    index = TokenIndex(vocab_of(b"", b"<s>", special=[1]), 40, native=native)
    everything = dfa_of({ANY_BYTE: 0})
    assert not index.allowed(everything, 0).any()
    assert not index.crosses(everything, 0, b"")


def test_threads_may_share_an_index(native):
    vocab = vocab_of(*(bytes([a, b]) for a in range(97, 123) for b in range(97, 123)))
    index = TokenIndex(vocab, len(vocab), native=native)
    dfas = [dfa_of({bytes([byte]): 1}, {ANY_BYTE: 1}) for byte in range(97, 123)] * 4
    with ThreadPoolExecutor(4) as pool:
        masks = list(pool.map(lambda dfa: ids_of(index.allowed(dfa, 0)), dfas))
    assert masks == [list(range(26 * i, 26 * i + 26)) for i in range(26)] * 4


# -------------------------------------------------------------------------------------- against the loop


@st.composite
def vocabularies(draw):
    """Words of few letters, so that many begin alike; pieces of characters, copies, holes; all bytes."""
    seed, size = draw(st.integers(0, 2**32)), draw(st.integers(0, 250))
    letters = draw(st.sampled_from(["ab", "abc é", "aé€😀", "\x00\x7fÿ"]))
    longest = draw(st.integers(1, 20))
    shuffle = random.Random(seed)
    tokens = [bytes([byte]) for byte in range(256)] if draw(st.booleans()) else []
    for _ in range(size):
        data = "".join(shuffle.choices(letters, k=shuffle.randint(0, longest))).encode()
        kind = shuffle.randrange(8)
        if kind == 0:  # cut anywhere, also inside a character
            data = data[: shuffle.randint(0, len(data))]
        elif kind == 1 and tokens:
            data = shuffle.choice(tokens)
        tokens.append(data[:20])
    shuffle.shuffle(tokens)
    special = draw(st.sets(st.integers(0, max(len(tokens) - 1, 0)), max_size=5))
    return vocab_of(*tokens, special=special), max(1, len(tokens) + draw(st.integers(-20, 70)))


@st.composite
def dfas(draw):
    """Random ones, from those where nearly nothing lives to those where nothing dies."""
    num_states, num_classes = draw(st.integers(1, 100)), draw(st.integers(1, 8))
    dead = draw(st.sampled_from([0, 0.01, 0.1, 0.5, 0.9]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    classes = rng.integers(0, num_classes, 256).astype(np.uint8)
    shape = num_states, num_classes
    if draw(st.booleans()):  # roads beside each other, as where an automaton counts
        to = (np.arange(num_states)[:, None] + rng.integers(0, 3, shape)) % num_states
    else:
        to = rng.integers(0, num_states, shape)
    transitions = np.where(rng.random(shape) < dead, -1, to).astype(np.int32)
    return Dfa(classes, transitions, rng.random(num_states) < 0.5)


@settings(max_examples=150, deadline=None)
@given(vocabularies(), dfas(), st.data())
def test_masks_are_those_of_a_loop(given_vocab, dfa, data):
    vocab, vocab_size = given_vocab
    states = {0, data.draw(st.integers(0, len(dfa.transitions) - 1))}
    for native in WALKS:
        index = TokenIndex(vocab, vocab_size, native=native)
        for state in states:
            assert ids_of(index.allowed(dfa, state)) == allowed_by_loop(vocab, vocab_size, dfa, state)


@settings(max_examples=100, deadline=None)
@given(vocabularies(), dfas(), st.data())
def test_crossing_is_that_of_a_loop(given_vocab, dfa, data):
    vocab, vocab_size = given_vocab
    state = data.draw(st.integers(0, len(dfa.transitions) - 1))
    beginnings = {token[:length] for token in vocab.token_bytes[:40] for length in range(len(token) + 1)}
    tails = [b"", b"\xff\xff", *sorted(beginnings)]
    for native in WALKS:
        index = TokenIndex(vocab, vocab_size, native=native)
        for tail in tails:
            expected = crosses_by_loop(vocab, vocab_size, dfa, state, tail)
            assert index.crosses(dfa, state, tail) == expected


@pytest.mark.parametrize("limit", [1, 7, 23, 24, 25, 26, 40, 79, 80])
def test_long_tokens_where_the_automaton_counts(native, limit):
    """Up to and past what the kernels look ahead."""
    tokens = [first + b"a" * length for first in (b"", b"b", b"ab") for length in range(80)]
    index = TokenIndex(vocab_of(*tokens), len(tokens), native=native)
    dfa = dfa_of(*({b"ab": state + 1} for state in range(limit)), {})
    expected = [token_id for token_id, data in enumerate(tokens) if 0 < len(data) <= limit]
    assert ids_of(index.allowed(dfa, 0)) == expected


@pytest.fixture(scope="module")
def bundled_vocab():
    return load_tokenizer(resolve_model(None)).vocab


HAND_MADE = {
    "any byte": dfa_of({ANY_BYTE: 0}),
    "any character": text_dfa(),
    "at most 9 characters": text_dfa(9),
    "inside a JSON string": text_dfa(without=b'"\\' + bytes(range(32))),
    "digits": dfa_of({b"0123456789": 0}),
    "with 'an' in it": dfa_of(
        {ANY_BYTE: 0, b"a": 1}, {ANY_BYTE: 0, b"a": 1, b"n": 2}, {ANY_BYTE: 2}, accepting=[2]
    ),
    "words, one space between": dfa_of({bytes(range(97, 123)): 1}, {bytes(range(97, 123)): 1, b" ": 0}),
    "true or false": dfa_of(
        {b"t": 1, b"f": 4}, {b"r": 2}, {b"u": 3}, {b"e": 7}, {b"a": 5}, {b"l": 6}, {b"s": 3}, {}
    ),
}


@pytest.mark.model
@pytest.mark.parametrize("name", HAND_MADE)
def test_the_vocabulary_of_the_bundled_model(bundled_vocab, native, name):
    dfa = HAND_MADE[name]
    index = TokenIndex(bundled_vocab, len(bundled_vocab), native=native)
    for state in {0, len(dfa.transitions) // 2}:
        expected = allowed_by_loop(bundled_vocab, len(bundled_vocab), dfa, state)
        assert ids_of(index.allowed(dfa, state)) == expected
        for tail in (b"", b" ", b" th", b'"', b"qqqq"):
            expected = crosses_by_loop(bundled_vocab, len(bundled_vocab), dfa, state, tail)
            assert index.crosses(dfa, state, tail) == expected


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("state", [-1, 2, 2**40])
def test_a_state_that_is_not_there(native, state):
    index = TokenIndex(WORDS, len(WORDS), native=native)
    dfa = dfa_of({b"a": 1}, {})
    with pytest.raises(ValueError, match=r"no .*state"):
        index.allowed(dfa, state)
    with pytest.raises(ValueError, match=r"no .*state"):
        index.crosses(dfa, state, b"a")


@pytest.mark.parametrize("to", [2, -2, 2**31 - 1, -(2**31)])
def test_a_transition_to_no_state(native, to):
    index = TokenIndex(WORDS, len(WORDS), native=native)
    dfa = dfa_of({b"a": 1}, {b"n": 0})
    dfa.transitions[1, dfa.byte_classes[ord("n")]] = to
    with pytest.raises(ValueError, match="no state"):
        index.allowed(dfa, 0)
    with pytest.raises(ValueError, match="no state"):
        index.crosses(dfa, 1, b"a")


def test_arrays_that_do_not_fit(native):
    index = TokenIndex(WORDS, len(WORDS), native=native)
    classes, table = np.full(256, 3, np.uint8), np.zeros((1, 3), np.int32)
    for dfa in (Dfa(classes, table, np.ones(1, bool)), Dfa(classes[:255], table, np.ones(1, bool))):
        with pytest.raises(ValueError, match="class"):
            index.allowed(dfa, 0)
        with pytest.raises(ValueError, match="class"):
            index.crosses(dfa, 0, b"a")


@pytest.mark.parametrize("vocab_size", [0, -1])
def test_a_vocabulary_has_a_size(vocab_size):
    with pytest.raises(ValueError, match="must be positive"):
        TokenIndex(WORDS, vocab_size)


@pytest.mark.skipif(NATIVE is None, reason="needs the native kernels")
@pytest.mark.parametrize(
    ("node_bytes", "node_depths", "node_of_token"),
    [
        (b"a", [1], [0]),
        (b"ab", [0, 2], [0]),
        (b"ab", [0, -1], [0]),
        (b"ab", [0], [0]),
        (b"a", [0], [1]),
        (b"a", [0], [-2]),
        (b"", [], [0]),
    ],
)
def test_the_kernels_take_no_array_for_a_trie_that_is_none(node_bytes, node_depths, node_of_token):
    arrays = (
        np.frombuffer(node_bytes, np.uint8),
        np.array(node_depths, np.int32),
        np.array(node_of_token, np.int32),
    )
    with pytest.raises(ValueError):
        NATIVE.TokenTrie(*arrays)


def test_without_kernels_numpy_does_the_same(monkeypatch):
    monkeypatch.setattr(token_index, "load_native", lambda: None)
    monkeypatch.setattr(token_index, "why_unavailable", lambda: "they were left at home")
    everything = dfa_of({ANY_BYTE: 0})
    assert ids_of(TokenIndex(WORDS, len(WORDS)).allowed(everything, 0)) == [1, 2, 3, 4, 5, 6, 8]
    with pytest.raises(UnsupportedFeature, match="left at home"):
        TokenIndex(WORDS, len(WORDS), native=True)
