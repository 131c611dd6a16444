from __future__ import annotations

import io
import itertools
import json

import pytest
from rich.console import Console

from ramet.cli.demo_program import ANIMALS, HOMES, LAST_PAGE, bedtime_book
from ramet.cli.demo_screen import Screen
from ramet.cli.metered import MeteredBackend
from ramet.event_loop import run_sync
from ramet.lang.backends.mock import MockBackend
from ramet.types import Prompt


def reply(prompt, params):
    return " they had breakfast" if LAST_PAGE in prompt.parts[-1].text else " of cake"


def test_the_program_writes_a_page_for_each_animal_and_a_last_one():
    backend = MockBackend(reply)
    state = bedtime_book.run(["cat", "dog"], backend=backend)
    assert f"Animal: cat\nHome:{HOMES[0]}\nDream: The cat dreams of cake\n\nAnimal: dog" in state.text()
    assert state.text().endswith(f"{LAST_PAGE} they had breakfast")
    assert len(backend.calls_of("score")) == 2


def test_it_is_shown_without_control_codes_if_piped(ramet, use_mock):
    engines = use_mock(reply)
    outcome = ramet("demo", "--model", "some.gguf")
    assert outcome.exit_code == 0, outcome.stderr
    assert "\x1b" not in outcome.stdout
    assert "One LM program on a real model (some.gguf)" in outcome.stdout.splitlines()[0]
    for animal in ANIMALS:
        assert f"The {animal} dreams of cake" in outcome.stdout
    assert "they had breakfast" in outcome.stdout
    assert "prompt tokens computed" in outcome.stdout
    assert "exactly the same text" in outcome.stdout
    assert [engine.options for engine in engines] == [{}, {"enable_prefix_cache": False}]
    assert all(engine.is_shut_down for engine in engines)


def test_json_is_all_there_is_on_stdout(ramet, use_mock):
    use_mock(reply)
    figures = json.loads(ramet("demo", "--json").stdout)
    assert figures["identical"] is True
    assert figures["with_reuse"]["calls"] == len(ANIMALS) * (len(HOMES) + 1) + 1
    assert figures["with_reuse"]["tokens_asked"] == figures["without_reuse"]["tokens_asked"] > 0


def test_different_texts_are_told(ramet, use_mock):
    count = itertools.count()
    use_mock(lambda prompt, params: f" {next(count)}")
    assert "wrote different texts" in " ".join(ramet("demo").stdout.split())
    assert json.loads(ramet("demo", "--json").stdout)["identical"] is False


@pytest.mark.parametrize(("width", "columns"), [(150, 4), (80, 2), (30, 1)])
def test_on_a_terminal_the_pages_stand_side_by_side_as_far_as_they_fit(width, columns):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=60, color_system=None)
    with Screen(console, ["cat", "dog", "cow", "hen"]) as screen:
        for index in range(4):
            screen.set_home(index, " forest")
            screen.add_dream(index, " of cake")
            screen.finish(index)
        screen.add_ending(" they sing")
    picture = file.getvalue()
    top = next(line for line in picture.splitlines() if "cat" in line)
    assert sum(animal in top for animal in ("cat", "dog", "cow", "hen")) == columns
    assert "they sing" in picture


def test_a_metered_backend_counts_prompts_and_continuations():
    inner = MockBackend()
    shared, isolated = MeteredBackend(inner, isolated=False), MeteredBackend(inner, isolated=True)
    for backend in (shared, isolated):
        inner.calls.clear()
        scores = run_sync(backend.score(Prompt.of("one two three"), ["a", "b c"]))
        run_sync(backend.cache_prefix(Prompt.of("one two three")))
        assert [score.text for score in scores] == ["a", "b c"]
        assert (backend.calls, backend.tokens_asked) == (2, 3 + 1 + 3 + 2)
        kinds = [call.kind for call in inner.calls]
        assert kinds == (["score", "score"] if backend is isolated else ["score", "cache_prefix"])


@pytest.mark.model
@pytest.mark.slow
def test_on_the_bundled_model_reuse_changes_the_work_and_not_the_text(ramet):
    outcome = ramet("demo", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    figures = json.loads(outcome.stdout)
    assert figures["identical"] is True
    with_reuse, without = figures["with_reuse"], figures["without_reuse"]
    assert with_reuse["tokens_asked"] == without["tokens_asked"]
    assert with_reuse["reuse"] > 0.8
    assert without["reuse"] < 0.05  # the last token of a scored choice needs no logits
    assert with_reuse["tokens_generated"] == without["tokens_generated"]
