"""Small tokenizers written to disk, as GGUF files and as Hugging Face folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf

from ramet.tokenizer.vocab import byte_alphabet

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

BYTES = list(byte_alphabet().values())


def write_gguf(
    path: Path,
    model: str,
    tokens: Sequence[str],
    types: Sequence[int],
    *,
    merges: Sequence[str] = (),
    scores: Sequence[float] = (),
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """A GGUF file with a tokenizer and nothing else; ``settings`` go under ``tokenizer.``."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(types))
    if merges:
        writer.add_token_merges(list(merges))
    if scores:
        writer.add_token_scores(list(scores))
    for key, value in (settings or {}).items():
        if isinstance(value, bool):
            writer.add_bool(f"tokenizer.{key}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"tokenizer.{key}", value)
        else:
            writer.add_string(f"tokenizer.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level_gguf(path: Path, pre: str, merges: Sequence[str], *, whole: Sequence[str] = ()) -> Path:
    """All bytes, the results of ``merges``, tokens in ``whole`` that no merge makes, two specials, a word."""
    words = [*BYTES, *("".join(merge.split(" ")) for merge in merges), *whole]
    tokens = [*words, "<|begin|>", "<|im_end|>", "<tag>"]
    types = [NORMAL] * len(words) + [CONTROL, CONTROL, USER_DEFINED]
    settings = {
        "ggml.pre": pre,
        "ggml.bos_token_id": len(words),
        "ggml.eos_token_id": len(words) + 1,
    }
    return write_gguf(path, "gpt2", tokens, types, merges=merges or ["a b"], settings=settings)


def sentencepiece_gguf(path: Path, words: Mapping[str, float], **settings: Any) -> Path:
    """``<unk>``, ``<s>``, ``</s>``, 256 byte tokens, then ``words`` with their scores."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *byte_tokens, *words]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(words)
    scores = [0.0] * 259 + list(words.values())
    keyed = {f"ggml.{key}": value for key, value in settings.items()}
    return write_gguf(path, "llama", tokens, types, scores=scores, settings=keyed)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
