"""The bundled model's tokenizer, loaded once."""

from __future__ import annotations

import pytest

from ramet.store import resolve_model
from ramet.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def bundled_tokenizer() -> Tokenizer:
    return load_tokenizer(resolve_model(None))
