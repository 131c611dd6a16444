"""What lies in the model cache, for listing and removing.

The cache holds ``models/`` (the bundled model's file) and ``hub/`` (huggingface_hub's own layout, one
folder per repository). Nothing outside of it is ever listed or removed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_path

from ramet.errors import ModelNotFound
from ramet.store.bundled import BUNDLED, marker_of, models_dir

BUNDLED_NAME = "bundled"

_REPOSITORY_PREFIX = "models--"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the cache. ``name`` is what to pass as the model, and to `remove_model`."""

    name: str
    path: Path
    size: int  # bytes on disk
    source: Literal["bundled", "hub"]


def default_cache_dir() -> Path:
    """Where models are kept unless a caller says otherwise."""
    return user_cache_path("ramet")


def hub_dir(cache_dir: Path) -> Path:
    """Where in the cache models from the hub lie."""
    return cache_dir / "hub"


def list_models(cache_dir: Path | None = None) -> list[StoredModel]:
    """The models in the cache: the bundled one first, then those of the hub by name."""
    cache_dir = cache_dir or default_cache_dir()
    found: list[StoredModel] = []
    bundled = models_dir(cache_dir) / BUNDLED.file_name
    if bundled.is_file():
        found.append(StoredModel(BUNDLED_NAME, bundled, bundled.stat().st_size, "bundled"))
    for folder in sorted(hub_dir(cache_dir).glob(f"{_REPOSITORY_PREFIX}*--*")):
        # huggingface_hub writes "org/name" as "models--org--name".
        name = folder.name.removeprefix(_REPOSITORY_PREFIX).replace("--", "/", 1)
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        found.append(StoredModel(name, folder, sum(path.stat().st_size for path in files), "hub"))
    return found


def remove_model(name: str, cache_dir: Path | None = None) -> StoredModel:
    """Delete a model from the cache; returns what was deleted.

    Raises:
        ModelNotFound: no model of that name is there; the message lists those that are.
    """
    stored = list_models(cache_dir)
    wanted = BUNDLED_NAME if name == BUNDLED.name else name
    for model in stored:
        if model.name == wanted:
            if model.source == "bundled":
                model.path.unlink()
                marker_of(model.path).unlink(missing_ok=True)
            else:
                shutil.rmtree(model.path)
            return model
    names = ", ".join(model.name for model in stored) or "nothing"
    raise ModelNotFound(f"the model cache holds no {name!r}; it holds {names}")
