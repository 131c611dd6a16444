"""The bundled model, and engines on it, shared by the tests of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ramet.engine.engine import Engine
from ramet.store.resolve import resolve_model

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def model_path() -> Path:
    return resolve_model(None)


@pytest.fixture(scope="session")
def engine():
    with Engine(dtype="float32") as engine:
        yield engine


@pytest.fixture(scope="session")
def questions() -> list[str]:
    """Real prompts of many kinds."""
    path = DATA / "mt_bench_questions.jsonl"
    if not path.exists():
        pytest.skip(f"needs the MT-bench questions (lm-sys/FastChat) at {path}")
    return [json.loads(line)["turns"][0] for line in path.read_text().splitlines()]
