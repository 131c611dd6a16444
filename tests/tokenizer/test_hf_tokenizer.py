"""Tokenizers from Hugging Face folders, against the tokenizers library on its own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from vocabularies import write_json

from ramet.errors import CorruptWeights, ModelNotFound, UnsupportedModel
from ramet.tokenizer import Tokenizer, decode, load_tokenizer

TEXTS = [
    "",
    "hello world",
    "  the cat  sat\non the <tool> mat ",
    "<|begin|>user\nthe cat<|end|>\n",
    "hello<|end|>  hello <|end|>",
    "naïve 中文 😀 \t tabs",
    " <tool>hello<tool> world",
]
CORPUS = ["the cat sat on the mat", "hello world, hello cat", "user assistant system the mat"] * 3

BEGIN, END, TOOL = (
    AddedToken("<|begin|>", special=True, normalized=False),
    AddedToken("<|end|>", special=True, normalized=False, rstrip=True),
    AddedToken("<tool>", special=False, normalized=False, lstrip=True),
)


def train(core: tokenizers.Tokenizer, alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    core.add_special_tokens([BEGIN, END])
    core.add_tokens([TOOL])


def save(folder: Path, core: tokenizers.Tokenizer, **settings) -> Path:
    folder.mkdir(exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json", {"eos_token": "<|end|>", "bos_token": "<|begin|>", **settings}
    )
    return folder


def byte_level() -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    train(core, pre_tokenizers.ByteLevel.alphabet())
    begin = core.token_to_id("<|begin|>")
    core.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    return core


def sentencepiece(scheme: str) -> tokenizers.Tokenizer:
    """``legacy``: a normalizer puts the dummy prefix, as in Llama 2; otherwise Metaspace does."""
    core = tokenizers.Tokenizer(models.BPE(byte_fallback=True))
    if scheme == "legacy":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    train(core, ["▁"])
    # The trainer makes no byte tokens: rebuild the model with them, as SentencePiece models have.
    model = json.loads(core.to_str())["model"]
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab |= {text: 256 + index for index, text in enumerate(model["vocab"])}
    rebuilt = tokenizers.Tokenizer(
        models.BPE(vocab, [tuple(merge) for merge in model["merges"]], byte_fallback=True)
    )
    if core.normalizer:
        rebuilt.normalizer = core.normalizer
    if core.pre_tokenizer:
        rebuilt.pre_tokenizer = core.pre_tokenizer
    rebuilt.decoder = core.decoder
    rebuilt.add_special_tokens([BEGIN, END])
    rebuilt.add_tokens([TOOL])
    return rebuilt


@pytest.fixture(params=["byte_level", "legacy", "first", "always", "never"])
def pair(request, tmp_path) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    """The library's tokenizer, and ours from its file."""
    core = byte_level() if request.param == "byte_level" else sentencepiece(request.param)
    return core, load_tokenizer(save(tmp_path / "model", core))


@pytest.mark.parametrize("text", TEXTS)
def test_encodes_as_the_library_does(pair, text):
    theirs, ours = pair
    assert ours.encode(text, parse_special=True) == theirs.encode(text, add_special_tokens=False).ids


def test_special_tokens_in_plain_text_are_text(pair):
    _, ours = pair
    for text in TEXTS:
        ids = ours.encode(text, parse_special=False)
        assert not any(ours.vocab.is_special(token_id) for token_id in ids)
        if "<tool>" not in text:  # it swallows the space before it
            assert decode(ours.vocab, ids).removeprefix(" ") == text.removeprefix(" ")


def test_continuations_get_no_prefix(pair):
    _, ours = pair
    assert decode(ours.vocab, ours.encode_continuation("hello world")) == "hello world"


BYTE_LEVEL = byte_level()


@pytest.fixture(scope="module")
def byte_level_tokenizer(tmp_path_factory) -> Tokenizer:
    return load_tokenizer(save(tmp_path_factory.mktemp("byte_level"), BYTE_LEVEL))


@given(text=st.text())
def test_byte_level_round_trip(byte_level_tokenizer, text):
    ids = byte_level_tokenizer.encode(text.replace("<tool>", ""), parse_special=False)
    assert decode(byte_level_tokenizer.vocab, ids) == text.replace("<tool>", "")


# -------------------------------------------------------------------------------------- beginning and end


def test_bos_is_added_where_the_post_processor_or_the_settings_say_so(tmp_path):
    core = byte_level()
    assert load_tokenizer(save(tmp_path / "a", core)).add_bos
    assert not load_tokenizer(save(tmp_path / "b", core, add_bos_token=False)).add_bos
    core.post_processor = processors.ByteLevel()
    assert not load_tokenizer(save(tmp_path / "c", core)).add_bos
    assert load_tokenizer(save(tmp_path / "d", core, add_bos_token=True)).add_bos


def test_end_tokens_come_from_all_files_that_name_some(tmp_path):
    core = byte_level()
    core.add_special_tokens(["<|eot_id|>"])
    folder = save(tmp_path / "model", core, eos_token={"content": "<|end|>"})
    write_json(folder / "generation_config.json", {"eos_token_id": [5, 6]})
    write_json(folder / "config.json", {"eos_token_id": 7})
    named = {core.token_to_id("<|end|>"), core.token_to_id("<|eot_id|>")}
    assert load_tokenizer(folder).eos_token_ids == {5, 6, 7} | named


def test_chat_templates_lie_in_the_settings_or_in_a_file_of_their_own(tmp_path):
    core = byte_level()
    assert load_tokenizer(save(tmp_path / "none", core)).chat_template is None
    inside = load_tokenizer(save(tmp_path / "inside", core, chat_template="in settings")).chat_template
    assert inside is not None
    assert inside.source == "in settings"
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    chosen = load_tokenizer(save(tmp_path / "several", core, chat_template=several)).chat_template
    assert chosen is not None
    assert chosen.source == "yes"
    (save(tmp_path / "beside", core) / "chat_template.jinja").write_text("a file")
    beside = load_tokenizer(tmp_path / "beside").chat_template
    assert beside is not None
    assert beside.source == "a file"


# ------------------------------------------------------------------------------------------- bad files


def test_a_folder_without_tokenizer_json_is_reported(tmp_path):
    with pytest.raises(ModelNotFound, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_other_kinds_of_tokenizers_are_named(tmp_path):
    write_json(tmp_path / "tokenizer.json", {"model": {"type": "WordPiece", "vocab": {}}})
    with pytest.raises(UnsupportedModel, match="WordPiece"):
        load_tokenizer(tmp_path)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(CorruptWeights, match=r"tokenizer\.json is not valid JSON"):
        load_tokenizer(tmp_path)
    write_json(tmp_path / "tokenizer.json", {"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}})
    with pytest.raises(CorruptWeights, match="vocab"):
        load_tokenizer(tmp_path)
    damaged = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 3}, "decoder": {"type": "ByteLevel"}}
    write_json(tmp_path / "tokenizer.json", damaged)
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
