"""`benchmarks/constrained.py`: what it asks, what it checks, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from constrained import main  # noqa: E402
from constrained_decoding.extraction import Cost, ExtractionRuns  # noqa: E402
from constrained_decoding.libraries import Followed  # noqa: E402
from constrained_decoding.masks import measure_masks  # noqa: E402
from constrained_decoding.patterns import cases  # noqa: E402
from constrained_decoding.vocabularies import enlarged  # noqa: E402
from constrained_decoding.workload import (  # noqa: E402
    MESSAGES,
    NUM_FIELDS,
    RECORD,
    SCHEMA,
    differing_values,
    mistakes,
    prompts,
)
from engine.engine_process import EngineFailed  # noqa: E402
from ramet.store.resolve import resolve_model  # noqa: E402
from ramet.tokenizer.load import load_tokenizer  # noqa: E402

# ------------------------------------------------------------------------------------------- workload


def test_the_workload_is_16_different_messages_and_8_fields():
    assert len(set(MESSAGES)) == len(prompts(16)) == 16
    assert NUM_FIELDS == len(SCHEMA["required"]) == 8
    assert mistakes(RECORD) == []


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (
            lambda record: record | {"number_of_items_in_the_order": 100},
            "number_of_items_in_the_order is 100",
        ),
        (lambda record: record | {"number_of_items_in_the_order": True}, "is True"),
        (lambda record: record | {"does_the_customer_ask_for_a_refund": 1}, "is 1"),
        (lambda record: record | {"overall_mood_of_the_message": "sad"}, "is 'sad'"),
        (lambda record: record | {"full_name_of_the_customer": "x" * 33}, "full_name_of_the_customer"),
        (lambda record: record | {"one_more": 1}, "wanted fields"),
        (lambda record: dict(reversed(record.items())), "in order"),
        (lambda record: [record], "not an object"),
    ],
)
def test_records_with_mistakes_are_found_out(change, mistake):
    [found] = mistakes(json.dumps(change(json.loads(RECORD))))
    assert mistake in found


def test_text_that_is_no_json_is_a_mistake():
    assert mistakes(RECORD[:-1])[0].startswith("not JSON")


def test_records_are_compared_value_by_value():
    other = RECORD.replace("118", "119").replace("coffee", "pepper")
    assert differing_values(RECORD, RECORD) == 0 and differing_values(RECORD, other) == 2


# -------------------------------------------------------------------------------------------- figures


def test_the_cost_of_a_constraint_is_of_the_steps_after_the_prompts():
    cost = Cost()
    for kind, seconds, steps in (
        ("prompts", 1.0, 1),
        ("free", 2.0, 11),
        ("free", 3.0, 11),
        ("known", 4.0, 21),
        ("known", 3.0, 21),
    ):
        cost.add(kind, {"seconds": seconds, "work": {"steps": steps}})
    assert cost.per_decode_step("free", min) == pytest.approx(0.1)
    assert cost.per_decode_step("known", min) == pytest.approx(0.1)
    assert cost.per_step("known", max) == pytest.approx(4 / 21)


class ScriptedEngine:
    """Answers each call with as many tokens as it may, or fails."""

    running = True

    def __init__(self, name, *, fails=False):
        self.name, self.fails, self.calls = name, fails, []

    def session(self, calls):
        if self.fails:
            raise EngineFailed("out of order")
        self.calls += calls
        work = {"steps": 7}
        return [
            {"seconds": 1.0, "token_ids": [[1] * 3 for _ in call["prompts"]], "texts": [], "work": work}
            for call in calls
        ]


def test_engines_take_turns_and_requests_without_a_constraint_are_as_long():
    ramet, stepping, broken = (
        ScriptedEngine("Ramet"),
        ScriptedEngine("Ramet, no jump-forward"),
        ScriptedEngine("vLLM", fails=True),
    )
    said = []
    runs = ExtractionRuns([ramet, stepping, broken], [[5], [6]], said.append)
    runs.extract(2)
    assert runs.extraction.seconds == {"Ramet": [1.0, 1.0], "Ramet, no jump-forward": [1.0, 1.0]}
    assert runs.extraction.failures == {"vLLM": "out of order"}
    assert [call["max_tokens"] for call in ramet.calls] == [[256, 256]] * 3
    stepping.calls.clear()
    cost = runs.cost(2)
    assert {kind: len(seconds) for kind, seconds in cost.seconds.items()} == dict.fromkeys(cost.seconds, 4)
    assert set(cost.seconds) == {"free", "known", "new", "prompts"}
    free = [call["max_tokens"] for call in stepping.calls if call["schema"] is None]
    assert sorted(free) == [[1, 1]] * 6 + [[3, 3]] * 6
    schemas = [call["schema"] for call in stepping.calls if call["schema"] is not None]
    assert {json.dumps(json.loads(schema)) for schema in schemas} == {json.dumps(SCHEMA)}
    assert len(set(schemas)) == 1 + 6, "new masks need a constraint never seen"


class ScriptedLibrary:
    prepared = 0.5

    def __init__(self, name, followed):
        self.name, self._followed = name, iter(followed)

    def follow(self, case):
        return next(self._followed)


def test_mask_times_are_medians_and_a_library_that_refuses_is_asked_once():
    ours = ScriptedLibrary("Ramet", [Followed(first, [2.0, 4.0], [True, False]) for first in (1.0, 9.0, 2.0)])
    other = ScriptedLibrary("other", [Followed(error="no such syntax")])
    figures = measure_masks("toy", [ours, other], cases(quick=True)[:1], 3, lambda line: None)
    [times] = figures.times.values()
    assert (times["Ramet"].first, times["Ramet"].mean, times["Ramet"].longest) == (2.0, 3.0, 4.0)
    assert (times["Ramet"].new_state, times["Ramet"].new_states) == (2.0, 1)
    assert times["other"].error == "no such syntax"


# ---------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "0"], "at least 1"),
        (["--peer", "vllm"], "give one for each"),
        (["--peer", "vllm", "--python", "/nowhere/python"], "no Python at"),
        (["--part", "speed"], "invalid choice"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.model
def test_the_enlarged_vocabulary_is_always_the_same_and_keeps_the_tokens():
    tokenizer = load_tokenizer(resolve_model(None))
    one, same = (enlarged(tokenizer, 50_000) for _ in range(2))
    assert one.vocab.token_bytes == same.vocab.token_bytes and len(one.vocab) == 50_000
    assert one.vocab.token_bytes[: len(tokenizer.vocab)] == tokenizer.vocab.token_bytes
    assert len(set(one.vocab.token_bytes[len(tokenizer.vocab) :])) == 50_000 - len(tokenizer.vocab)
    spelled = b"".join(map(one.vocab.bytes_of, one.characters("früh, ja\n")))
    assert spelled == "früh, ja\n".encode()


@pytest.mark.model
@pytest.mark.slow
def test_quick_runs_and_prints_its_tables(tmp_path):
    record = tmp_path / "record.json"
    command = [sys.executable, BENCHMARKS / "constrained.py", "--quick", "--runs", "1", "--json", record]
    done = subprocess.run(
        [*command, "--workdir", tmp_path], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    for part in ("valid outputs", "4 of 4", "steps with jump-forward", "cost of a constraint", "49k tokens"):
        assert part in done.stdout
    written = json.loads(record.read_text())
    for answer in written["extraction"]["answers"].values():
        assert not any(map(mistakes, answer["texts"]))
    assert written["cost"]["seconds"] and len(written["masks"]) == 2
