"""The one door to tokenizers: a path in, a `Tokenizer` out."""

from __future__ import annotations

from pathlib import Path

from ramet.tokenizer.gguf_tokenizer import load_gguf_tokenizer
from ramet.tokenizer.hf_tokenizer import load_hf_tokenizer
from ramet.tokenizer.tokenizer import Tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file or a Hugging Face folder.

    Raises:
        ModelNotFound: no such file, or a folder without ``tokenizer.json``.
        UnsupportedModel: a tokenizer or pre-tokenizer this version does not know.
        CorruptWeights: the file is truncated or lacks what a tokenizer needs.
    """
    return load_hf_tokenizer(path) if path.is_dir() else load_gguf_tokenizer(path)
