from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

import ramet as rm
from ramet.cli import info
from ramet.runner.machine import available_cores
from ramet.store import BUNDLED, default_cache_dir

X86_FLAGS = "fpu sse2 avx2 fma f16c bmi2 avx512f avx512bw avx512vl avx512dq avx512_vnni"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty model cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return default_cache_dir()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(flags=..., compiled=..., supported=...)``: an x86-64 CPU with kernels for it."""

    def pretend(*, flags=X86_FLAGS, compiled, supported):
        facts = tmp_path / "cpuinfo"
        facts.write_text(
            f"processor\t: 0\nmodel name\t: Pretended 9000\nflags\t\t: {flags}\n\nprocessor\t: 1\n"
        )
        native = SimpleNamespace(compiled_isas=lambda: compiled, supported_isas=lambda: supported)
        monkeypatch.setattr(info, "CPU_FACTS", facts)
        monkeypatch.setattr(info, "load_native", lambda: native)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    return pretend


@pytest.fixture
def without_kernels(monkeypatch):
    monkeypatch.setattr(info, "load_native", lambda: None)
    monkeypatch.setattr(info, "why_unavailable", lambda: "no compiler was there")


def lines(outcome):
    return [line.split() for line in outcome.stdout.splitlines()]


def test_what_people_read(ramet):
    outcome = ramet("info")
    assert outcome.exit_code == 0
    for label in (
        "ramet",
        "python",
        "platform",
        "cpu",
        "cores",
        "memory",
        "native kernels",
        "gpus",
        "torch",
        "triton",
        "models",
    ):
        assert f"\n{label} " in "\n" + outcome.stdout
    assert ["ramet", rm.__version__] in lines(outcome)


def test_what_programs_read(ramet, cache):
    report = json.loads(ramet("info", "--json").stdout)
    assert report["version"] == rm.__version__
    assert report["python"].endswith(platform.python_version())
    assert report["cores"] == available_cores()
    assert report["memory"] > 0
    assert report["torch"] == importlib.metadata.version("torch")
    assert report["models_folder"] == str(cache)
    assert report["models"] == []
    native = report["native_kernels"]
    assert native["in_use"] == (native["reason"] is None)
    assert sum(each["in_use"] for each in native["instruction_sets"]) == native["in_use"]


def test_gpus_are_named_and_what_they_need_is(ramet, tmp_path, monkeypatch):
    for number in (1, 2):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
        facts = tmp_path / f"0000:0{number}:00.0" / "information"
        facts.write_text(f"Model: \t\t NVIDIA Pretended {number}00\nIRQ:   \t\t 53\n")
    monkeypatch.setattr(info, "GPU_FACTS", tmp_path)
    monkeypatch.setattr(info, "_installed_version", lambda distribution: None)
    outcome = ramet("info")
    assert "gpus            NVIDIA Pretended 100, NVIDIA Pretended 200" in outcome.stdout
    assert "pip install 'ramet[gpu]'" in outcome.stdout
    monkeypatch.setattr(info, "GPU_FACTS", tmp_path / "nothing")
    assert "gpus            none of NVIDIA" in ramet("info").stdout


def test_the_best_set_is_in_use_and_the_cpu_lacks_what_the_better_one_needs(ramet, machine):
    machine(
        compiled=["avx512_bf16", "avx512", "avx2", "baseline"],
        supported=["avx512", "avx2", "baseline"],
    )
    outcome = ramet("info")
    assert "cpu             Pretended 9000 (x86_64)" in outcome.stdout
    assert "native kernels  in use" in outcome.stdout
    assert "avx512_bf16  not supported by this CPU: no avx512_bf16" in outcome.stdout
    assert "avx512       in use" in outcome.stdout
    assert "avx2         supported" in outcome.stdout


def test_a_set_the_compiler_did_not_know_says_so(ramet, machine):
    machine(flags=X86_FLAGS + " avx512_bf16", compiled=["avx2", "baseline"], supported=["avx2", "baseline"])
    outcome = ramet("info")
    assert "avx512_bf16  not compiled" in outcome.stdout
    assert "avx512       not compiled" in outcome.stdout
    assert "avx2         in use" in outcome.stdout


def test_no_kernels_say_why(ramet, without_kernels):
    assert "native kernels  not in use: no compiler was there" in ramet("info").stdout
    assert json.loads(ramet("info", "--json").stdout)["native_kernels"] == {
        "in_use": False,
        "reason": "no compiler was there",
        "instruction_sets": [],
    }


def test_the_models_that_are_there(ramet, cache):
    path = cache / "models" / BUNDLED.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    assert f"{cache} (bundled)" in ramet("info").stdout


def test_torch_is_asked_about_and_not_loaded():
    code = "import sys; from ramet.cli.info import _report; _report(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
