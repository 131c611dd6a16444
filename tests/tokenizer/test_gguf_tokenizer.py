"""Tokenizers from GGUF files: against llama.cpp's ids, and against SentencePiece's rule by brute force."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vocabularies import BYTES, CONTROL, NORMAL, byte_level_gguf, sentencepiece_gguf, write_gguf

from ramet.errors import CorruptWeights, ModelNotFound, UnsupportedModel
from ramet.tokenizer import decode, load_tokenizer

ORACLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tokenize_smollm2.json"
# The bundled vocabulary was trained without these bytes; no token spells them.
UNSPELLABLE = "\x04\x06\x13\x14\x16\x1d"


def words_of(tokenizer, text, **options):
    options.setdefault("parse_special", False)
    return [tokenizer.vocab.text(token_id) for token_id in tokenizer.encode(text, **options)]


# ----------------------------------------------------------------------------------------- bundled model


@pytest.mark.model
def test_bundled_model_encodes_as_llama_cpp_does(bundled_tokenizer):
    if not ORACLE.exists():
        pytest.skip(f"needs the ids computed with llama.cpp at {ORACLE}")
    for case in json.loads(ORACLE.read_text(encoding="utf-8")):
        assert bundled_tokenizer.encode(case["text"], parse_special=False) == case["plain"]
        assert bundled_tokenizer.encode(case["text"], parse_special=True) == case["special"]


@pytest.mark.model
def test_bundled_model_knows_its_control_tokens(bundled_tokenizer):
    vocab = bundled_tokenizer.vocab
    assert {vocab.text(token_id) for token_id in bundled_tokenizer.eos_token_ids} == {
        "<|im_end|>",
        "<|endoftext|>",
    }
    assert vocab.text(bundled_tokenizer.bos_token_id) == "<|im_start|>"
    assert not bundled_tokenizer.add_bos
    assert bundled_tokenizer.vocab_size == len(vocab) == 49152
    assert vocab.is_special(2)
    assert vocab.bytes_of(2) == b""


@pytest.mark.model
@given(st.text(st.characters(exclude_categories=["Cs", "Co", "Cn"], exclude_characters=UNSPELLABLE)))
def test_decode_undoes_encode(bundled_tokenizer, text):
    assert decode(bundled_tokenizer.vocab, bundled_tokenizer.encode(text, parse_special=False)) == text


# ----------------------------------------------------------------------------------------- byte-level BPE

DIGITS = ["1 2", "12 3", "' S", "Ġ a"]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("smollm", ["1", "2", "3", "1", "2", "'", "S", " a"]),
        ("qwen2", ["1", "2", "3", "1", "2", "'S", " a"]),
        ("llama-bpe", ["123", "12", "'S", " a"]),
        ("gpt-2", ["123", "12", "'", "S", " a"]),
    ],
)
def test_each_pre_tokenizer_cuts_text_its_own_way(tmp_path, pre, expected):
    tokenizer = load_tokenizer(byte_level_gguf(tmp_path / "t.gguf", pre, DIGITS))
    assert words_of(tokenizer, "12312'S a") == expected


def test_llama_bpe_takes_whole_words_without_merging(tmp_path):
    with_whole = load_tokenizer(byte_level_gguf(tmp_path / "l.gguf", "llama-bpe", ["a b"], whole=["abc"]))
    without = load_tokenizer(byte_level_gguf(tmp_path / "q.gguf", "qwen2", ["a b"], whole=["abc"]))
    assert words_of(with_whole, "abc") == ["abc"]
    assert words_of(without, "abc") == ["ab", "c"]
    assert with_whole.add_bos
    assert not without.add_bos


def test_special_tokens_are_text_unless_asked_for(tmp_path):
    tokenizer = load_tokenizer(byte_level_gguf(tmp_path / "t.gguf", "gpt-2", ["a b"]))
    end = next(iter(tokenizer.eos_token_ids))
    assert tokenizer.encode("ab<|im_end|>", parse_special=True) == [256, end]
    plain = tokenizer.encode("ab<|im_end|>", parse_special=False)
    assert end not in plain
    assert decode(tokenizer.vocab, plain) == "ab<|im_end|>"


def test_user_defined_tokens_are_words_everywhere(tmp_path):
    tokenizer = load_tokenizer(byte_level_gguf(tmp_path / "t.gguf", "gpt-2", ["a b"]))
    ids = tokenizer.encode("ab<tag>ab", parse_special=False)
    assert [tokenizer.vocab.text(token_id) for token_id in ids] == ["ab", "<tag>", "ab"]
    assert decode(tokenizer.vocab, ids) == "ab<tag>ab"
    assert not tokenizer.vocab.is_special(ids[1])


@pytest.mark.parametrize("pre", ["default", "viking"])
def test_unknown_pre_tokenizers_are_refused_by_name(tmp_path, pre):
    with pytest.raises(UnsupportedModel, match=pre):
        load_tokenizer(byte_level_gguf(tmp_path / "t.gguf", pre, ["a b"]))


# ------------------------------------------------------------------------------------- SentencePiece BPE


def sentencepiece_words(words: dict[str, float], text: str) -> list[str]:
    """SentencePiece's rule, literally: join the best-scored neighbours, the leftmost of equals, again."""
    symbols = list(text)
    while True:
        unions = [(words[a + b], -i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in words]
        if not unions:
            return symbols
        at = -max(unions)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


@st.composite
def sentencepiece_vocabularies(draw):
    longer = draw(st.lists(st.text("ab▁", min_size=2, max_size=5), unique=True, max_size=12))
    order = draw(st.permutations(longer))
    return {word: -1.0 - rank for rank, word in enumerate([*order, "a", "b", "▁"])}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=sentencepiece_vocabularies(), text=st.text("ab ", max_size=30))
def test_sentencepiece_merges_by_score(tmp_path, words, text):
    path = sentencepiece_gguf(tmp_path / "t.gguf", words, add_space_prefix=False)
    tokenizer = load_tokenizer(path)
    expected = sentencepiece_words(words, text.replace(" ", "▁"))
    ids = tokenizer.encode(text, parse_special=False)
    assert [list(words)[token_id - 259] for token_id in ids] == expected
    assert decode(tokenizer.vocab, ids) == text


ENGLISH = {"▁": -9.0, "h": -8.0, "i": -7.0, "▁h": -2.0, "▁hi": -1.0, "hi": -3.0}


def test_sentencepiece_puts_a_space_before_text_but_not_before_continuations(tmp_path):
    tokenizer = load_tokenizer(sentencepiece_gguf(tmp_path / "t.gguf", ENGLISH))
    assert words_of(tokenizer, "hi") == [" hi"]
    assert words_of(tokenizer, "</s>hi", parse_special=True) == ["</s>", " hi"]
    assert [tokenizer.vocab.text(i) for i in tokenizer.encode_continuation("hi")] == ["hi"]
    assert tokenizer.add_bos
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, frozenset({2}))


def test_sentencepiece_spells_unknown_letters_in_bytes(tmp_path):
    tokenizer = load_tokenizer(sentencepiece_gguf(tmp_path / "t.gguf", ENGLISH, add_space_prefix=False))
    ids = tokenizer.encode("hié\n", parse_special=False)
    assert ids == [259 + 5, 3 + 0xC3, 3 + 0xA9, 3 + 0x0A]
    assert decode(tokenizer.vocab, ids) == "hié\n"


def test_sentencepiece_never_merges_text_into_a_control_token(tmp_path):
    words = {"<": -5.0, "/": -6.0, "s": -7.0, ">": -8.0, "</": -1.0, "s>": -2.0}
    tokenizer = load_tokenizer(sentencepiece_gguf(tmp_path / "t.gguf", words, add_space_prefix=False))
    assert words_of(tokenizer, "</s>") == ["</", "s>"]


# ------------------------------------------------------------------------------------------- bad files


def test_other_tokenizers_are_refused_by_name(tmp_path):
    path = write_gguf(tmp_path / "t.gguf", "t5", ["a"], [NORMAL])
    with pytest.raises(UnsupportedModel, match="'t5'"):
        load_tokenizer(path)


def test_a_missing_key_is_named(tmp_path):
    path = write_gguf(tmp_path / "t.gguf", "gpt2", BYTES, [NORMAL] * 256, settings={"ggml.pre": "gpt-2"})
    with pytest.raises(CorruptWeights, match=r"tokenizer\.ggml\.merges"):
        load_tokenizer(path)


def test_a_control_token_outside_the_vocabulary_is_named(tmp_path):
    path = write_gguf(tmp_path / "t.gguf", "gpt2", ["a"], [CONTROL], settings={"ggml.eos_token_id": 7})
    with pytest.raises(CorruptWeights, match="eos_token_id is 7"):
        load_tokenizer(path)


def test_a_truncated_file_is_reported(tmp_path):
    path = byte_level_gguf(tmp_path / "t.gguf", "gpt-2", ["a b"])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptWeights, match=r"t\.gguf is truncated"):
        load_tokenizer(path)


def test_a_missing_file_and_another_format_are_reported(tmp_path):
    with pytest.raises(ModelNotFound, match="nothing"):
        load_tokenizer(tmp_path / "nothing.gguf")
    (tmp_path / "text.gguf").write_text("hello, world")
    with pytest.raises(ModelNotFound, match="not a GGUF file"):
        load_tokenizer(tmp_path / "text.gguf")
