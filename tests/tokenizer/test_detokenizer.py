"""Text from tokens, one at a time or all at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ramet.tokenizer import Detokenizer, Vocab, decode

BYTE_VOCAB = Vocab(
    token_bytes=(*(bytes([byte]) for byte in range(256)), "é中".encode(), b""),
    texts=(*map(chr, range(256)), "é中", "<|end|>"),
    special_ids=frozenset({257}),
)


@given(st.lists(st.integers(0, 258)))
def test_pieces_join_to_the_whole_text(ids):
    detokenizer = Detokenizer(BYTE_VOCAB)
    text = "".join(detokenizer.append(token_id) for token_id in ids) + detokenizer.flush()
    assert text == decode(BYTE_VOCAB, ids)


def test_half_a_character_is_kept_back():
    detokenizer = Detokenizer(BYTE_VOCAB)
    assert [detokenizer.append(byte) for byte in "a中!".encode()] == ["a", "", "", "中", "!"]
    assert detokenizer.flush() == ""


def test_an_unfinished_character_ends_as_a_replacement():
    detokenizer = Detokenizer(BYTE_VOCAB)
    assert detokenizer.append(0xE4) == ""
    assert detokenizer.has_partial_character
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.append(ord("x")) == "x"


def test_special_tokens_and_padding_rows_have_no_text():
    assert decode(BYTE_VOCAB, [ord("a"), 257, 100_000, ord("b")]) == "ab"
    assert BYTE_VOCAB.text(257) == "<|end|>"
    assert BYTE_VOCAB.display([ord("a"), 257]) == "a<|end|>"
    assert BYTE_VOCAB.is_special(100_000)


def test_several_tokens_at_once():
    detokenizer = Detokenizer(BYTE_VOCAB)
    assert detokenizer.extend("a中".encode()[:3]) == "a"
    assert detokenizer.extend([*"中".encode()[2:], 257, 256]) == "中é中"
