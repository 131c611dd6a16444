"""Added tokens: where they are matched, and what they swallow."""

from __future__ import annotations

import pytest
import tokenizers

from ramet.errors import InvalidRequest
from ramet.tokenizer.text_encoder import AddedToken, TextEncoder

# One id per letter: what matters here is what is cut out.
LETTERS = "abc <>|end_"
WORD, END, BEGIN, WHOLE = 100, 101, 102, 103


def letters_only() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(LETTERS)}, []))


ENCODER = TextEncoder(
    letters_only(),
    [
        AddedToken(WORD, "<b>", special=False),
        AddedToken(END, "<|end|>", special=True, rstrip=True),
        AddedToken(BEGIN, "<|", special=True, lstrip=True),
        AddedToken(WHOLE, "cab", special=False, single_word=True),
    ],
)


def encode(text: str, *trusted: tuple[int, int]) -> list[int | str]:
    return [LETTERS[i] if i < 100 else i for i in ENCODER.encode(text, trusted)]


def everywhere(text: str) -> list[int | str]:
    return encode(text, (0, len(text)))


def test_the_longest_token_wins_and_the_leftmost_goes_first():
    assert everywhere("a<|end|><b>") == ["a", END, WORD]
    assert everywhere("<|<|end|>") == [BEGIN, END]


def test_special_tokens_are_matched_in_trusted_spans_only():
    text = "<|end|>a<|end|>"
    assert encode(text) == list(text)
    assert encode(text, (0, 7)) == [END, "a", *"<|end|>"]
    assert encode(text, (0, 12)) == [END, "a", BEGIN, *"end|>"]  # only a part of the second is trusted
    assert encode("<b>") == [WORD]


def test_white_space_beside_a_token_is_swallowed_on_request():
    assert everywhere("a  <|end|>  b") == ["a", " ", " ", END, "b"]
    assert everywhere("a  <|  b") == ["a", BEGIN, " ", " ", "b"]


def test_single_words_are_no_part_of_a_word():
    assert everywhere("a cab") == ["a", " ", WHOLE]
    assert everywhere("acab") == list("acab")
    assert everywhere("cab_") == list("cab_")


def test_half_a_surrogate_pair_is_refused_by_position():
    with pytest.raises(InvalidRequest, match="character 1 is"):
        encode("a\ud800")
