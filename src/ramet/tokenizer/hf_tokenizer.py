"""A tokenizer from a Hugging Face folder: ``tokenizer.json`` and the small files beside it.

The added tokens are taken out of ``tokenizer.json`` and matched by us, and so is its post-processor: BOS is
put by the prompt encoder. Knows nothing of tensors.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers

from ramet.errors import CorruptWeights, ModelNotFound, UnsupportedModel
from ramet.json_file import read_json_object, read_optional_json_object
from ramet.tokenizer.chat_template import ChatTemplate
from ramet.tokenizer.text_encoder import AddedToken, PrefixScheme, TextEncoder
from ramet.tokenizer.tokenizer import ControlTokens, Tokenizer
from ramet.tokenizer.vocab import END_OF_TURN, SPACE_MARK, Alphabet, TokenKind, build_vocab, is_byte_token

_SEQUENCE_KEYS = ("normalizers", "pretokenizers", "decoders", "processors")


def load_hf_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer a Hugging Face folder describes.

    Raises:
        ModelNotFound, UnsupportedModel, CorruptWeights: see `load_tokenizer`.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelNotFound(
            f"{folder} has no tokenizer.json; save it there with transformers' "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…), or use a GGUF file"
        )
    definition = read_json_object(path)
    settings = read_optional_json_object(folder / "tokenizer_config.json")
    named = {**read_optional_json_object(folder / "special_tokens_map.json"), **settings}
    alphabet = _alphabet(path, definition)
    try:
        added = [_added_token(entry) for entry in definition.get("added_tokens") or ()]
        ids = {token.text: token.token_id for token in added}
        bos = ids.get(_token_text(named.get("bos_token")))
        eos = _end_tokens(folder, named, added)
        added = _with_special(added, eos if bos is None else eos | {bos})
        tokens, kinds = _entries(definition["model"]["vocab"], added, alphabet)
        for token_id in (
            eos if bos is None else eos | {bos}
        ):  # never text, even if the file has them among words
            if token_id < len(kinds):
                kinds[token_id] = TokenKind.SPECIAL
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptWeights(f"{path} lacks or misplaces {error}; download it again") from error
    source = _template_source(folder, settings)
    template = None
    if source:
        bos_token, eos_token = _token_text(named.get("bos_token")), _token_text(named.get("eos_token"))
        template = ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
    return Tokenizer(
        build_vocab(tokens, kinds, alphabet),
        _encoder(path, definition, added),
        ControlTokens(bos, eos, _adds_bos(settings, definition, bos)),
        template,
    )


# ------------------------------------------------------------------------------------------ the vocabulary


def _alphabet(path: Path, definition: Mapping[str, Any]) -> Alphabet:
    model = definition.get("model") or {}
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedModel(f"{path}: tokenizers of type {model.get('type')!r} (supported: BPE)")
    types = {part.get("type") for part in _components(definition)}
    if "ByteLevel" in types:
        return "byte_level"
    if types & {"Metaspace", "ByteFallback"} or model.get("byte_fallback"):
        return "sentencepiece"
    raise UnsupportedModel(f"{path}: a BPE that is neither byte-level nor SentencePiece")


def _components(definition: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Normalizers, pre-tokenizers, decoders and post-processors, sequences flattened."""
    for key in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        yield from _flatten(definition.get(key))


def _flatten(node: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(node, dict):
        return
    inner = [part for key in _SEQUENCE_KEYS for part in node.get(key) or ()]
    if inner:
        for part in inner:
            yield from _flatten(part)
    else:
        yield node


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    return AddedToken(
        entry["id"],
        entry["content"],
        special=bool(entry.get("special")),
        lstrip=bool(entry.get("lstrip")),
        rstrip=bool(entry.get("rstrip")),
        single_word=bool(entry.get("single_word")),
    )


def _with_special(added: Sequence[AddedToken], special_ids: frozenset[int]) -> list[AddedToken]:
    """Begin and end tokens are never text, even where the file calls them plain words."""
    return [replace(token, special=token.special or token.token_id in special_ids) for token in added]


def _entries(
    vocab: Mapping[str, int], added: Sequence[AddedToken], alphabet: Alphabet
) -> tuple[list[str], list[TokenKind]]:
    size = 1 + max([-1, *vocab.values(), *(token.token_id for token in added)])
    tokens = [""] * size
    kinds = [TokenKind.SPECIAL] * size  # a hole in the ids is no text
    for text, token_id in vocab.items():
        tokens[token_id] = text
        is_byte = alphabet == "sentencepiece" and is_byte_token(text)
        kinds[token_id] = TokenKind.BYTE if is_byte else TokenKind.NORMAL
    for token in added:
        tokens[token.token_id] = token.text
        kinds[token.token_id] = TokenKind.SPECIAL if token.special else TokenKind.LITERAL
    return tokens, kinds


# -------------------------------------------------------------------------------------- beginning and end


def _token_text(value: Any) -> str:
    """A token's text in tokenizer_config.json: a string, or an object that holds it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _end_tokens(folder: Path, named: Mapping[str, Any], added: Sequence[AddedToken]) -> frozenset[int]:
    end_ids = {token.token_id for token in added if token.text == _token_text(named.get("eos_token"))}
    end_ids |= {token.token_id for token in added if token.special and token.text in END_OF_TURN}
    for name in ("generation_config.json", "config.json"):
        value = read_optional_json_object(folder / name).get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        end_ids |= {token_id for token_id in values if isinstance(token_id, int)}
    return frozenset(end_ids)


def _adds_bos(settings: Mapping[str, Any], definition: Mapping[str, Any], bos: int | None) -> bool:
    given = settings.get("add_bos_token")
    if isinstance(given, bool):
        return given
    for processor in _flatten(definition.get("post_processor")):
        if processor.get("type") == "TemplateProcessing":
            first = (processor.get("single") or [{}])[0].get("SpecialToken")
            ids = (processor.get("special_tokens") or {}).get((first or {}).get("id"), {}).get("ids")
            return bos is not None and ids == [bos]
    return False


def _template_source(folder: Path, settings: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        by_name = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = by_name.get("default")
    return template if isinstance(template, str) else ""


# ----------------------------------------------------------------------------------------------- encoding


def _encoder(path: Path, definition: Mapping[str, Any], added: Sequence[AddedToken]) -> TextEncoder:
    bare = {
        **copy.deepcopy(dict(definition)),
        "added_tokens": [],
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    model = bare["model"]
    if model.get("ignore_merges"):
        # Such a model takes a word that is a whole entry without merging: no special token may be one.
        special = {token.text for token in added if token.special} - {model.get("unk_token")}
        model["vocab"] = {text: index for text, index in model["vocab"].items() if text not in special}
    unprefixed, scheme = _without_prefix(bare)
    core = _build(path, unprefixed)
    if scheme == "never":
        return TextEncoder(core, added)
    return TextEncoder(core, added, prefixed_core=_build(path, bare), prefix=scheme)


def _build(path: Path, definition: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises bare Exception for all it rejects
        raise UnsupportedModel(f"{path}: the tokenizers library refuses it: {error}") from error


def _without_prefix(definition: Mapping[str, Any]) -> tuple[dict[str, Any], PrefixScheme]:
    """The definition without its dummy prefix, for text in the middle, and where the prefix belonged."""
    bare = copy.deepcopy(dict(definition))
    scheme: PrefixScheme = "never"
    for part in _flatten(bare.get("normalizer")):
        if part.get("type") == "Prepend":
            scheme = "always"
            # Putting nothing in front leaves the place in the sequence filled.
            part.clear()
            part.update({"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": SPACE_MARK})
    for part in _flatten(bare.get("pre_tokenizer")):
        if part.get("type") == "Metaspace":
            legacy = "always" if part.get("add_prefix_space", True) else "never"
            given = part.get("prepend_scheme") or legacy
            if given == "first":
                scheme = "first"
            elif given == "always":
                scheme = "always"
            part.pop("add_prefix_space", None)
            part["prepend_scheme"] = "never"
        elif part.get("type") == "ByteLevel" and part.get("add_prefix_space"):
            scheme = "always"
            part["add_prefix_space"] = False
    return bare, scheme
