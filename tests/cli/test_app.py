from __future__ import annotations

import subprocess
import sys

import ramet as rm


def test_help_says_what_the_commands_are_for(ramet):
    outcome = ramet("--help")
    assert outcome.exit_code == 0
    for command in ("demo", "run", "chat", "models"):
        assert command in outcome.stdout
    for command in ("demo", "run", "chat"):
        assert "Example" in ramet(command, "--help").stdout


def test_version(ramet):
    assert ramet("--version").stdout == f"ramet {rm.__version__}\n"


def test_the_command_line_does_not_load_torch():
    code = "import sys, ramet.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wrong_usage_has_exit_code_2(ramet):
    assert ramet("run").exit_code == 2
    assert ramet("chat", "--no-such-option").exit_code == 2
    assert ramet("frobnicate").exit_code == 2


def test_an_error_is_one_line_and_exit_code_1(ramet, tmp_path):
    outcome = ramet("run", tmp_path / "missing.py")
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: there is no file ")
    assert outcome.stderr.count("\n") == 1


def test_debug_shows_the_traceback(ramet, tmp_path):
    outcome = ramet("--debug", "run", tmp_path / "missing.py")
    assert outcome.exit_code == 1
    assert isinstance(outcome.exception, rm.InvalidRequest)


def test_an_unknown_model_is_an_error_not_a_traceback(ramet, tmp_path):
    file = tmp_path / "p.py"
    file.write_text("import ramet as rm\n@rm.function\ndef p(s):\n    s += rm.gen('x')\n")
    outcome = ramet("run", file, "--model", tmp_path / "no.gguf")
    assert outcome.exit_code == 1
    assert "no.gguf" in outcome.stderr
