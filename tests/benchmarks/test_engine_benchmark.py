"""`benchmarks/engine`: what it asks, what it computes from times, and how it talks to engines."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from engine.arguments import parse  # noqa: E402
from engine.convert import hf_config  # noqa: E402
from engine.engine_process import EngineFailed, EngineProcess, EngineSpec  # noqa: E402
from engine.limits import limits_spec, measure_limits  # noqa: E402
from engine.measure import Measurement  # noqa: E402
from engine.model_facts import ModelFacts  # noqa: E402
from engine.report import Measured, notes, shares  # noqa: E402
from engine.workloads import SESSIONS, Figure, Sizes, Workloads  # noqa: E402
from ramet.models.config import ModelConfig  # noqa: E402

ECHO = f"""
import os, sys, threading, time
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
from engine.peers.wire import serve

class Echo:
    "Repeats the last token of a prompt; fails, dies or answers short if the first token says so."
    def __init__(self, options):
        self.calls = 0
        timer = threading.Timer(0.5, Path(options.workdir, "idle").touch)
        timer.daemon = True
        timer.start()
    def prepare(self, calls):
        print("chatter on standard output")
        os.write(1, b"and from below Python\\n")
    def generate(self, call):
        self.calls += 1
        first = call.prompts[0][0]
        if first == 1:
            raise RuntimeError("out of order")
        if first == 2:
            sys.exit("last words")
        if first == 3:
            time.sleep(60)
        count = call.max_tokens - (first == 4)
        return [[prompt[-1]] * count for prompt in call.prompts]
    def counters(self):
        return {{"calls": self.calls}}

serve(Echo)
"""
OPTIONS = {"model": "none", "threads": 1, "workdir": ".", "format": None}


@pytest.fixture
def echo(tmp_path):
    script = tmp_path / "echo.py"
    script.write_text(ECHO)

    def start(name="Ramet", timeout=30.0, settle=0.0):
        spec = EngineSpec(name, (sys.executable, script), OPTIONS | {"workdir": str(tmp_path)})
        return EngineProcess(spec, tmp_path / f"{name}.log", timeout=timeout, settle=settle)

    return start


def a_call(first=9, max_tokens=2):
    return {"prefix": [first], "suffixes": [[5], [6]], "max_tokens": max_tokens, "cache": True}


def is_stopped(pid):
    """Whether it is, or comes to be: signals take a moment."""
    for _ in range(500):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return True
        time.sleep(0.01)
    return False


# ------------------------------------------------------------------------------------------- workloads


@pytest.mark.parametrize("name", [name for names in SESSIONS.values() for name in names])
@pytest.mark.parametrize("divisor", [1, 8, 10_000])
def test_sessions_ask_prompts_of_one_length_and_ordinary_tokens(name, divisor):
    workloads = Workloads(49_152, random.Random(0), Sizes(divisor))
    for call in workloads.session(name):
        assert call.figure in workloads.figures
        assert len({len(suffix) for suffix in call.suffixes}) == 1 and call.max_tokens >= 1
        ids = [*call.prefix, *(token for suffix in call.suffixes for token in suffix)]
        assert all(1000 <= token < 48_152 for token in ids)


def test_sessions_are_of_the_sizes_they_are_known_by():
    workloads = Workloads(49_152, random.Random(0))

    def shape(name):
        return [
            (len(call.prefix), len(call.suffixes), len(call.suffixes[0]), call.max_tokens)
            for call in workloads.session(name)
        ]

    assert shape("a") == [(0, 16, 1024, 1)]
    assert shape("b") == [(0, 1, 32, 256)]
    assert shape("c") == [(0, 32, 32, 128)]
    assert shape("d") == shape("d off") == [(1000, 64, 50, 16)]
    assert shape("d primed") == [(1000, 1, 50, 16), (1000, 63, 50, 16)]
    assert shape("e 4000") == [(4000, 16, 8, 64)] * 2
    assert workloads.session("d off")[0].cache is False
    cold, again = workloads.session("e 4000")
    assert cold.prefix == again.prefix and cold.suffixes != again.suffixes
    assert workloads.session("a") != workloads.session("a"), "ids are fresh"


def test_figures_are_rates_or_times():
    rate, time = Figure("c", "output tok/s", 4096), Figure("d", "s")
    assert rate.value(2.0) == 2048.0 and time.value(2.0) == 2.0
    assert rate.speedup(2.0, 5.0) == time.speedup(2.0, 5.0) == 2.5


# ---------------------------------------------------------------------------------------------- report


def test_shares_are_of_what_matrices_and_memory_allowed_at_the_time():
    measured = Measured()
    for seconds, slowness in ((1.0, 2), (2.0, 1), (9.0, 3)):
        measured.add("a", "Ramet", seconds)
        measured.add("b", "Ramet", seconds)
        measured.limits.setdefault("a", []).append({"int8": 800e9 / slowness, "bf16": 400e9 / slowness})
        measured.limits.setdefault("b", []).append({"memory read": 40e9 / slowness})
    facts = ModelFacts("m", 49_152, 576, 1536, layer_weights=100_000_000, decode_bytes=100_000_000)
    found = shares(measured, Workloads(49_152, random.Random(0)).figures, facts)
    assert found == {
        "(a) of int8, 2,000 tok/s": {"Ramet": pytest.approx(16 * 1024 / 2 / 4000)},
        "(a) of bf16, 1,000 tok/s": {"Ramet": pytest.approx(16 * 1024 / 2 / 2000)},
        "(b) of memory read, 200 tok/s": {"Ramet": pytest.approx(256 / 2 / 400)},
    }


# --------------------------------------------------------------------------------------------- engines


def test_an_engine_answers_whatever_it_prints_and_stands_still_in_between(echo):
    with echo() as engine:
        engine.start()
        pid = engine.pid
        assert is_stopped(pid)
        [answer] = engine.session([a_call()])
        assert answer["tokens"] == [[5, 5], [6, 6]] and answer["work"] == {"calls": 1}
        assert answer["seconds"] >= 0
        assert is_stopped(pid)
    assert not os.path.exists(f"/proc/{pid}")


def test_an_engine_may_stand_idle_once_it_has_loaded(echo, tmp_path):
    with echo() as hurried:
        hurried.start()
        assert is_stopped(hurried.pid)
        time.sleep(1)
        assert not (tmp_path / "idle").exists()
    (tmp_path / "idle").unlink(missing_ok=True)  # it went on for a moment in order to end
    with echo(settle=1.0) as settled:
        settled.start()
        assert is_stopped(settled.pid)
        assert (tmp_path / "idle").exists()


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (1, "RuntimeError: out of order"),
        (2, "ended with 1: last words"),
        (3, "no answer within"),
        (4, r"asked for 2 x 2 tokens, got 2 x \[1\]"),
    ],
)
def test_an_engine_that_fails_says_why_and_is_gone(echo, first, reason):
    with echo(timeout=2.0 if first == 3 else 30.0) as engine:
        engine.start()
        with pytest.raises(EngineFailed, match=reason):
            engine.session([a_call(first)])
        assert not engine.running


def test_an_engine_that_cannot_start(tmp_path):
    spec = EngineSpec("gone", (tmp_path / "no-python",), OPTIONS)
    with (
        pytest.raises(EngineFailed, match="cannot start"),
        EngineProcess(spec, tmp_path / "log", timeout=5) as e,
    ):
        e.start()


def test_engines_take_turns_and_one_that_fails_is_left_out(echo, tmp_path):
    said = []
    broken = EngineProcess(
        EngineSpec("broken", (sys.executable, "-c", ""), OPTIONS), tmp_path / "b", timeout=30
    )
    with echo() as ours, echo("peer") as peer, broken:
        workloads = Workloads(49_152, random.Random(0), Sizes(64))
        measurement = Measurement([ours, peer, broken], workloads, said.append)
        measurement.run("d primed", runs=2, warm_ups=1)
    measured = measurement.measured
    assert {name: len(times) for name, times in measured.seconds["d primed"].items()} == {
        "Ramet": 2,
        "peer": 2,
    }
    assert "ended with 0" in measured.failures["d primed"]["broken"]
    assert measured.agreement["d primed"] == {"peer": (4, 4)}
    assert measured.work["d primed"] == {"calls": 2}
    runs = [line.partition(": ")[0].split()[-1] for line in said if ") run " in line]
    assert runs == ["Ramet", "peer", "peer", "Ramet"]
    lines = notes(measured, workloads.figures, ["Ramet", "peer", "broken"])
    assert any("broken failed" in line for line in lines)


# ---------------------------------------------------------------------------------------------- limits


def test_a_machine_is_measured():
    with EngineProcess(limits_spec(2, 64, 128), Path(os.devnull), timeout=120) as machine:
        limits = measure_limits(machine, ["memory read", "bf16 of 32 rows"])
        assert is_stopped(machine.pid)
    assert list(limits) == ["memory read", "bf16 of 32 rows"]
    assert all(rate > 0 for rate in limits.values())


MACHINE = """
import json, sys
for answer in (None, [{"memory read": 2e9}], [{"memory read": 1e9}]):
    sys.stdin.readline()
    print(json.dumps({"ok": answer}), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(("runs", "found"), [(2, [2e9, 1e9]), (3, None)])
def test_limits_are_measured_for_every_run_or_not_at_all(echo, tmp_path, runs, found):
    said = []
    machine = EngineProcess(
        EngineSpec("machine", (sys.executable, "-c", MACHINE), {}), tmp_path / "m", timeout=30
    )
    with echo() as ours, machine:
        measurement = Measurement(
            [ours], Workloads(49_152, random.Random(0), Sizes(64)), said.append, machine
        )
        measurement.run("b", runs=runs, warm_ups=1)
        measurement.run("c", runs=1, warm_ups=0)  # nothing bounds it
    measured = measurement.measured
    assert len(measured.seconds["b"]["Ramet"]) == runs
    assert measured.limits == ({"b": [{"memory read": rate} for rate in found]} if found else {})
    assert any("could not be measured" in line for line in said) == (found is None)


# ---------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "a,x"], "no workload 'x'"),
        (["--runs", "0"], "at least 1"),
        (["--peer", "vllm"], "give one for each"),
        (["--peer", "vllm", "--python", "/nowhere/python"], "no Python at"),
        (["--no-ramet"], "nothing to measure"),
        (
            ["--device", "cuda", "--peer", "llama.cpp", "--python", sys.executable],
            "transformers, not for llama.cpp",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err


def test_a_hugging_face_config_says_what_ours_says():
    config = ModelConfig(
        architecture="qwen3",
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        context_length=128,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
    )
    written = hf_config(config)
    assert written["architectures"] == ["Qwen3ForCausalLM"] and written["head_dim"] == 16
    assert written["num_key_value_heads"] == 2 and written["rope_theta"] == 1e6
