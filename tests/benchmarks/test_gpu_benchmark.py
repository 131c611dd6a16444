"""`benchmarks/gpu`: its arithmetic, what it makes of sections that fail, and that it runs without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from math import prod
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from attention.plans import Sequence, Step, segments_of  # noqa: E402
from gpu import child  # noqa: E402
from gpu.command import main  # noqa: E402
from gpu.driving import Loaded, StepFailed  # noqa: E402
from gpu.limits import run as run_limits  # noqa: E402
from gpu.overhead import letters_tokenizer, union  # noqa: E402
from gpu.record import Record, text_of  # noqa: E402
from gpu.sections import NAMES, SECTIONS  # noqa: E402
from gpu.settings import Limits, Settings, Skip  # noqa: E402
from gpu.shapes import shape_of  # noqa: E402
from gpu.shared_prefix import compact, unshared, with_own_slots  # noqa: E402
from gpu.sizes import SMOKE  # noqa: E402
from gpu.subprocesses import finished  # noqa: E402
from gpu.suite import gpu_tests  # noqa: E402
from ramet.config import ModelOptions, SchedulerConfig  # noqa: E402
from ramet.runner.build import build_runner  # noqa: E402
from ramet.sampling_params import SamplingParams  # noqa: E402

TESTS = Path(__file__).resolve().parents[1]
GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)


# -------------------------------------------------------------------------------------------- arithmetic


def test_the_shapes_have_as_many_parameters_as_the_models_they_stand_for(tmp_path):
    large, small = (shape_of(name, tmp_path) for name in ("Llama-3-8B", "Llama-3.2-1B"))
    embedding = large.head_weights
    assert 8.0e9 < large.layer_weights + 2 * embedding < 8.04e9
    assert 1.23e9 < small.layer_weights + small.head_weights < 1.24e9  # its head is its embedding
    assert large.config.num_kv_heads * large.config.head_dim == 1024


def test_what_a_step_reads_and_computes(tmp_path):
    shape = shape_of("tiny", tmp_path)
    matrices = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    assert shape.layer_weights == matrices
    assert shape.decode_bytes(10, slot_bytes=256, weight_bytes=2) == 2 * (matrices + 512 * 64) + 2560
    # Three rows that attend to 5 keys in all, and logits of one: products, then scores and sums per head
    expected = 2 * 3 * matrices + 2 * 512 * 64 + 2 * (2 * 5 * 4 * 16) * 2
    assert shape.operations(3, attended=5, logits=1) == expected


def test_a_limit_is_what_takes_longer():
    limits = Limits(copy=4e9, read=2e9, matrix=1e12)
    assert limits.seconds(8e9, 1e12) == 2.0 and limits.seconds(4e9, 3e12) == 3.0


def test_overlapping_work_counts_once():
    assert union([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.7)]) == 4.0
    assert union([]) == 0.0
    assert union([(4.0, 5.0), (0.0, 1.0), (1.5, 2.0)], gap=0.5) == 3.0


# ------------------------------------------------------------------------------- plans that share nothing


def reads_of(segments):
    """Per row, the slot of each position."""
    reads = {}
    for index, first in enumerate(segments.first_position):
        slots = segments.slots[segments.slot_offsets[index] : segments.slot_offsets[index + 1]]
        for row in range(segments.row_begin[index], segments.row_end[index]):
            for position, slot in enumerate(slots.tolist(), start=int(first)):
                assert reads.setdefault(row, {}).setdefault(position, slot) == slot
    return reads


def test_rows_read_the_same_keys_alone_as_together():
    slots = np.random.default_rng(0).permutation(1000).tolist()
    branches = [Sequence([0] * 150, slots[:140] + slots[200 + 10 * i : 210 + 10 * i]) for i in range(5)]
    together = segments_of([Step(branch, 149, 150) for branch in branches])
    alone = unshared(together)
    assert (alone.row_end - alone.row_begin == 1).all() and len(alone.row_begin) == 5 * 3
    assert (np.diff(alone.first_position) >= 0).all()
    assert reads_of(alone) == reads_of(together)
    dense, num_slots = compact(together)
    assert num_slots == 140 + 5 * 10 == len(np.unique(dense.slots))
    own, num_slots = with_own_slots(alone, 5)
    of_rows = [list(reads.values()) for _, reads in sorted(reads_of(own).items())]
    assert num_slots == 5 * 150 and sorted(slot for row in of_rows for slot in row) == list(range(750))
    assert all(row == list(range(row[0], row[0] + 150)) for row in of_rows)


# ------------------------------------------------------------------------------------------- the engine


@pytest.fixture
def loaded(tmp_path):
    shape = shape_of("tiny", tmp_path)
    options = ModelOptions(device="cpu", kernels="torch", load_format="dummy")
    runner = build_runner(shape.folder, options, max_kv_tokens=1000, steps=SchedulerConfig())
    loaded = Loaded(shape, runner)
    yield loaded
    loaded.close()


def test_contexts_cost_nothing(loaded):
    driven = loaded.core()
    prompts = [loaded.prompt(200) for _ in range(3)]
    driven.cache_prompts(prompts)
    assert "launch" not in loaded.runner.seconds, "nothing was computed"
    driven.add(prompts, GREEDY)
    steps = driven.steps(2, rows=3)
    assert len(steps.seconds) == 2 and steps.part("launch") > 0
    assert len(loaded.runner.last_input.input_ids) == 3, "a row each: contexts were found in the cache"
    assert loaded.runner.last_input.positions.tolist() == [200] * 3
    driven.stop()
    assert not driven.core.has_work


def test_a_request_that_ends_is_not_timed(loaded):
    driven = loaded.core()
    driven.add([loaded.prompt(5)], GREEDY)
    with pytest.raises(StepFailed, match="ended while"):
        driven.steps(9, rows=1)


def test_the_vocabulary_of_words_is_as_large_as_the_model_and_has_no_end():
    tokenizer = letters_tokenizer(2000)
    assert len(set(tokenizer.vocab.token_bytes)) == tokenizer.vocab_size == 2000
    assert not tokenizer.eos_token_ids and prod(map(len, tokenizer.vocab.token_bytes[:300])) > 0


# --------------------------------------------------------------------------------- sections and processes


class Outbox:
    """Takes events as a pipe would, and records them."""

    def __init__(self):
        self.record = Record()
        self.exit_status = 0

    def send(self, event):
        self.record.take(event)


class ScriptedSection:
    def __init__(self, name, body, *, ends_process=False):
        self.name, self.seconds, self.run, self.ends_process = name, 60.0, body, ends_process


def measured(monkeypatch, folder, sections):
    """The record of sections, as far as their process gets."""
    monkeypatch.setattr(child, "SECTIONS", sections)
    monkeypatch.setattr(child, "die_with_parent", lambda: None)
    settings = Settings(smoke=True, folder=folder, out=folder, model=None, deadline=time.monotonic() + 60.0)
    outbox = Outbox()
    try:
        child.measure([section.name for section in sections], settings, outbox)
    except SystemExit as ended:
        outbox.exit_status = ended.code
    return outbox


def test_a_section_that_fails_ends_its_process_and_others_go_on(monkeypatch, tmp_path, caplog):
    def fails(bench):
        bench.row("table", {"rows": 1, "share": 0.5})
        raise RuntimeError("out of order")

    def is_skipped(bench):
        raise Skip("no such library")

    sections = [
        ScriptedSection("one", lambda bench: bench.note("all is well")),
        ScriptedSection("two", is_skipped),
        ScriptedSection("three", fails),
        ScriptedSection("four", lambda bench: None),
    ]
    outbox = measured(monkeypatch, tmp_path, sections)
    assert outbox.exit_status == 1
    outcomes = outbox.record.outcomes
    assert {name: outcome.state for name, outcome in outcomes.items()} == {
        "one": "done",
        "two": "skipped",
        "three": "failed",
    }
    assert outcomes["three"].reason == "RuntimeError: out of order"
    assert outcomes["three"].tables == {"table": [{"rows": 1, "share": 0.5}]}
    assert outbox.record.failed() == ["three"] and "out of order" in caplog.text


def test_a_section_that_leaves_something_behind_is_the_last_of_its_process(monkeypatch, tmp_path):
    sections = [
        ScriptedSection("one", lambda bench: None, ends_process=True),
        ScriptedSection("two", lambda bench: None),
    ]
    outbox = measured(monkeypatch, tmp_path, sections)
    assert outbox.exit_status == 0 and list(outbox.record.outcomes) == ["one"]


def test_limits_are_known_even_if_triton_does_not_work(monkeypatch):
    known = Limits(copy=1.0, read=2.0, matrix=3.0)
    monkeypatch.setattr("gpu.limits.measure", lambda *_, **__: known)
    monkeypatch.setattr("gpu.limits.environment", lambda device: {})
    monkeypatch.setitem(sys.modules, "gpu.empty_kernel", None)  # cannot be imported
    bench = Mock(device=torch.device("cuda"), sizes=SMOKE)
    with pytest.raises(ImportError):
        run_limits(bench)
    bench.set_limits.assert_called_once_with(known)


def test_a_program_that_takes_too_long_is_gone_with_all_it_started(tmp_path):
    script = """
import subprocess
print("begun", flush=True)
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
try:
    child.wait()
except KeyboardInterrupt:
    print("so far", flush=True)
    child.wait()
"""
    log, begun = tmp_path / "log", time.monotonic()
    with pytest.raises(TimeoutError, match=f"see {log}"):
        finished([sys.executable, "-c", script], seconds=3.0, log=log)
    assert time.monotonic() - begun < 30
    first, pid, last = log.read_text().split("\n", 2)
    assert first == "begun" and last == "so far\n", "it is asked to say how far it got"
    status = Path(f"/proc/{pid}/status")
    assert not status.exists() or "Z (zombie)" in status.read_text()
    assert finished([sys.executable, "-c", "print('well')"], seconds=30.0, log=log) == 0
    assert log.read_text() == "well\n"


def test_every_section_is_there():
    for section in SECTIONS:
        module, _, function = section.place.partition(":")
        __import__(f"gpu.{module}")
        assert callable(getattr(sys.modules[f"gpu.{module}"], function))


def test_tests_of_kernels_are_among_those_for_a_gpu():
    found = {path.name for path in gpu_tests(TESTS)}
    assert {"test_triton.py", "test_device_sampler.py", "test_cuda_graph.py"} <= found
    assert not found & {"test_triton_compiles.py", "test_regex.py"}


@pytest.mark.parametrize(
    ("column", "cell", "text"),
    [
        ("share of limit", 0.731, "73.1%"),
        ("tokens/s", 12345.6, "12,346"),
        ("rows", 8, "8"),
        ("us", 12.345, "12.3"),
        ("tokens in common", 32768, "32,768"),
        ("what", "decode", "decode"),
        ("us", None, "-"),
    ],
)
def test_cells_are_written_for_people(column, cell, text):
    assert text_of(column, cell) == text


# ---------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "decode,speed"], "no section 'speed'"),
        (["--model", "/nowhere/model.gguf"], "no model at"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def run_smoke(out, *arguments):
    command = [sys.executable, BENCHMARKS / "gpu", "--smoke", "--out", out, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    return done, json.loads((out / "gpu.json").read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run it in earnest")
def test_it_runs_without_a_gpu(tmp_path):
    no_model = tmp_path / "model.gguf"
    no_model.write_bytes(b"none")
    names = "greedy,decode,prefill,shared,overhead,busy,options,workloads"
    done, written = run_smoke(tmp_path / "out", "--only", names, "--model", no_model)
    sections = written["sections"]
    states = {name: section["state"] for name, section in sections.items()}
    assert states.pop("greedy") == "failed" and "model.gguf" in sections["greedy"]["reason"], done.stderr
    assert states.pop("workloads") == "failed" and (tmp_path / "out" / "engine.log").exists()
    assert set(states.values()) == {"done"} and set(states) < set(NAMES), done.stderr
    assert done.returncode == 1 and "FAILED: greedy, workloads" in done.stdout
    assert written["limits"]["matrix"] > 0 and written["environment"]["torch"] == torch.__version__

    [rows] = sections["greedy"]["tables"].values()
    assert rows[0]["all the same"] == rows[0]["prompts"], "the tiny model was compared before"
    [decode] = sections["decode"]["tables"].values()
    assert [row["rows"] for row in decode] == [1, 4, 1, 4]
    assert all(row["tokens/s"] > 0 and row["share of limit"] > 0 for row in decode)
    assert any("200 rows" in note and "slots" in note for note in sections["decode"]["notes"])
    assert len(sections["shared"]["tables"]["against the targets"]) == 2
    [steps] = sections["overhead"]["tables"].values()
    assert {"as it is", "no overlap", "top-p"} <= {row["variant"] for row in steps}
    [traced, *_] = sections["busy"]["tables"].values()
    assert {"as it is", "no overlap", "grammar", "no graphs"} == {row["variant"] for row in traced}
    assert all(
        0 < row["device busy share"] <= row["share with gaps below 10 us"] <= 1 + 1e-9 for row in traced
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run it in earnest")
def test_what_there_is_no_time_for_is_said(tmp_path):
    done, written = run_smoke(tmp_path / "out", "--only", "decode", "--seconds", "0.01")
    states = {name: section["state"] for name, section in written["sections"].items()}
    assert done.returncode == 1 and states == {"limits": "failed", "decode": "no time"}
