"""The model as vLLM's structured outputs need it: a Hugging Face folder that has a tokenizer.

`engine.convert` writes the weights without one; here a folder beside it links to them and adds the rest.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ramet.tokenizer.tokenizer import Tokenizer


def folder_with_tokenizer(folder: Path, tokenizer: Tokenizer) -> Path:
    """``folder`` if it has a tokenizer, else a copy of it with one, its weights linked; made once."""
    if (folder / "tokenizer.json").exists():
        return folder
    target = folder.with_name(f"{folder.name}-tokenizer")
    if target.exists():
        return target
    unfinished = target.with_name(target.name + ".part")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    (unfinished / "model.safetensors").symlink_to(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["eos_token_id"] = sorted(tokenizer.eos_token_ids)
    (unfinished / "config.json").write_text(json.dumps(config, indent=2))
    (unfinished / "tokenizer.json").write_text(json.dumps(_tokenizer_json(tokenizer)))
    end = tokenizer.vocab.text(max(tokenizer.eos_token_ids))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end}
    (unfinished / "tokenizer_config.json").write_text(json.dumps(about))
    unfinished.rename(target)
    return target


def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """What the `tokenizers` library writes, with the special tokens that ours keeps apart put back in."""
    written: dict[str, Any] = json.loads(tokenizer._encoder._core.to_str())
    vocab = tokenizer.vocab
    for token_id in sorted(vocab.special_ids):
        text = vocab.text(token_id)
        written["model"]["vocab"][text] = token_id
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        written["added_tokens"].append({"id": token_id, "content": text, **flags})
    return written
