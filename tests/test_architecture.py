"""What the layout promises: small files, strata that load without the ones below, documented modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "ramet"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 400

TEXT_AND_TOKENS = [
    "ramet",
    "ramet.lang.api",
    "ramet.lang.backends.mock",
    "ramet.facade",
    "ramet.tokenizer.load",
    "ramet.store.resolve",
    "ramet.radix",
    "ramet.scheduler.scheduler",
    "ramet.engine.core",
    "ramet.engine.local",
    "ramet.runner.fake",
]


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_is_small_and_says_what_it_is_for(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "no module docstring"


def test_text_and_tokens_load_without_torch():
    block = "import sys; sys.modules['torch'] = None; "
    imports = "; ".join(f"import {module}" for module in TEXT_AND_TOKENS)
    subprocess.run([sys.executable, "-c", block + imports], check=True, timeout=60)


def test_the_package_asks_the_environment_for_nothing():
    """No environment variables as API."""
    readers = {"environ", "getenv"}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not used & readers, f"{name_of(path)} reads the environment"
