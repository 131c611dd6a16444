"""Every example runs: on a mock, and some on the bundled model."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import ramet as rm
from cli.conftest import MockEngine
from ramet.lang.backends.mock import MockBackend

FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
REPLIES = {
    "json_extraction": '{"name_of_the_dish": "reply", "would_order_again": true, "number_of_stars": 5}',
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_on_a_mock(example, monkeypatch, capsys):
    reply = REPLIES.get(example.stem, " reply")
    monkeypatch.setattr(rm, "Engine", lambda: MockEngine(MockBackend(reply)), raising=False)
    runpy.run_path(str(example), run_name="__main__")
    assert "reply" in capsys.readouterr().out or example.stem == "judge_select"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_can_be_imported_and_says_what_it_shows(example):
    module = runpy.run_path(str(example))
    assert f"python examples/{example.name}" in module["__doc__"]
    assert callable(module["main"])


@pytest.mark.model
@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ("batch", ["Italy: Rome", "which country?"]),
        ("async_program", ["opposite of happy is sad"]),
        ("json_extraction", ["number_of_stars=5", "tokens were forced, not sampled"]),
    ],
)
def test_it_runs_on_the_bundled_model(example, expected):
    command = [sys.executable, str(FOLDER / f"{example}.py")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    for text in expected:
        assert text in outcome.stdout
