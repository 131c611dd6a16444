"""Where models come from: the bundled one, files and folders, the hub, and what lies in the cache.

Everything here ends in a path to a GGUF file or a Hugging Face folder; what is inside is not its business.
"""

from ramet.store.bundled import BUNDLED, BundledModel, pull_bundled
from ramet.store.cache import StoredModel, default_cache_dir, list_models, remove_model
from ramet.store.resolve import resolve_model

__all__ = [
    "BUNDLED",
    "BundledModel",
    "StoredModel",
    "default_cache_dir",
    "list_models",
    "pull_bundled",
    "remove_model",
    "resolve_model",
]
