"""The Python in README and docs runs as it stands, from top to bottom of each page.

Pages that talk to a server at its usual address get one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from serving import listening

import ramet as rm

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SERVER = "http://127.0.0.1:8000"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


@pytest.fixture(scope="module")
def url(engine):
    with listening(engine.backend) as url:
        yield url


@pytest.mark.model
@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name)
def test_snippets_run(page, engine, tmp_path, capsys, request):
    names = {"rm": rm, "engine": engine}
    for number, snippet in enumerate(snippets(page)):
        # A program is found by its source file in tracebacks, so each snippet gets one.
        path = tmp_path / f"{page.stem}_{number}.py"
        if SERVER in snippet:
            snippet = snippet.replace(SERVER, request.getfixturevalue("url"))
        path.write_text(snippet)
        exec(compile(snippet, str(path), "exec"), names)
        if names["engine"] is not engine:  # the page made an engine of its own
            names["engine"].shutdown()
            names["engine"] = engine


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert (page.parent / target).exists() or target.startswith("http"), f"{page.name}: {target}"
