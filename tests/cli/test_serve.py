"""`ramet serve`: its options and, with the bundled model, the whole of it."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ramet.cli.serve_screen import curl_line, show_first_screen
from ramet.config import ServerConfig
from ramet.model_card import ModelCard

PATIENCE = 60.0  # seconds, for what takes far less

CARD = ModelCard(
    name="tiny",
    path="/models/tiny.gguf",
    context_length=2048,
    max_sequence_tokens=1024,
    vocab_size=100,
    num_slots=12_345,
    pool_bytes=250_000_000,
    kernels="an abacus",
)


@pytest.fixture(autouse=True)
def logging_as_before():
    """The command sends the log of its process elsewhere."""
    loggers = [logging.getLogger(name) for name in (None, "ramet", "ramet.server", "ramet.server.access")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


# --------------------------------------------------------------------------------------- before it serves


def test_help_shows_the_options_of_the_engine_and_the_server(ramet):
    text = ramet("serve", "--help").stdout
    for flag in ("--port", "--api-key", "--max-kv-tokens", "--policy", "--ready-file", "--ssl-certfile"):
        assert flag in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "port must be between 0 and 65535"),
        (["--max-requests", "0"], "max_requests must be at least 1"),
        (["--stall-seconds", "0"], "stall_seconds must be greater than 0"),
        (["--api-key", ""], "an API key must not be empty"),
        (["--api-key-file", "no-such-file"], "--api-key-file: cannot read no-such-file"),
        (["--admin-key-file", "no-such-file"], "--admin-key-file: cannot read no-such-file"),
        (["--port", "0", "no-such-model.gguf"], "there is no model at no-such-model.gguf"),
        (["--port", "0", "--max-batch-tokens", "0"], "max_batch_tokens must be an integer of at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(ramet, options, message):
    outcome = ramet("serve", *options)
    assert outcome.exit_code == 1
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_an_empty_file_of_keys_does_not_let_everybody_in(ramet, tmp_path):
    file = tmp_path / "keys"
    file.write_text("# none yet\n\n")
    outcome = ramet("serve", "--api-key-file", file)
    assert (outcome.exit_code, outcome.stderr) == (1, f"error: --api-key-file: there is no key in {file}\n")


def test_without_the_extra_it_says_what_to_install(ramet, monkeypatch):
    found = importlib.util.find_spec
    missing = {"uvicorn", "prometheus_client"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in missing else found(name, *more)
    )
    outcome = ramet("serve")
    assert outcome.exit_code == 1
    assert "ramet serve needs uvicorn, prometheus_client: pip install 'ramet[server]'" in outcome.stderr


def test_the_first_screen_in_a_pipe_is_plain_lines(capsys):
    show_first_screen("http://127.0.0.1:1234", CARD, ServerConfig(api_keys=("sesame",)))
    lines = capsys.readouterr().err.splitlines()
    assert "model: tiny" in lines
    assert "kernels: an abacus" in lines
    assert "KV cache: 12,345 tokens (238 MiB)" in lines
    assert "docs: http://127.0.0.1:1234/docs" in lines
    assert "API keys: 1 accepted" in lines
    assert lines[-1] == "try: " + curl_line("http://127.0.0.1:1234", ServerConfig(api_keys=("sesame",)))
    assert "sesame" not in "".join(lines)


def test_the_command_line_imports_no_server():
    code = "import sys, ramet.cli.app; sys.exit(bool({'fastapi', 'uvicorn', 'httpx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------------- with the bundled model


@contextmanager
def serving(folder, *flags):
    """``ramet serve``: the process and its URL."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "ramet", "serve", "--port", "0", "--ready-file", ready, *flags]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            yield process, wait_for(lambda: ready.exists() and json.loads(ready.read_text()), process)["url"]
        finally:
            process.kill()


def wait_for(condition, process):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def core_of(process) -> int:
    """The process id of a server's engine core."""
    tasks = Path(f"/proc/{process.pid}/task")
    (child,) = {pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()}
    return int(child)


def ask(url, **more):
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5, **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE)


@pytest.mark.model
def test_it_says_where_it_serves_answers_and_stops(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\nsesame\n")
    with serving(tmp_path, "--api-key-file", keys, "--log-json", "--exit-with-parent") as (process, url):
        ready = json.loads((tmp_path / "ready.json").read_text())
        assert ready == {"url": url, "pid": process.pid}
        assert ask(url).status_code == 401
        authorized = {"Authorization": "Bearer sesame", "X-Request-Id": "mine"}
        response = httpx.post(
            f"{url}/v1/completions", json={"prompt": "Hello", "max_tokens": 3}, headers=authorized
        )
        assert response.json()["usage"]["completion_tokens"] == 3
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert not (tmp_path / "ready.json").exists()
    lines = (tmp_path / "log").read_text().splitlines()
    assert "model: SmolLM2-135M-Instruct" in lines
    facts = [json.loads(line) for line in lines if line.startswith("{")]
    (mine,) = [fact for fact in facts if fact.get("request_id") == "mine"]
    assert (mine["path"], mine["status"]) == ("/v1/completions", 200)


@pytest.mark.model
def test_who_listens_to_the_world_without_a_key_is_warned(tmp_path):
    with serving(tmp_path, "--host", "0.0.0.0") as (_, url):
        assert url.startswith("http://127.0.0.1:")
    assert "warning: anybody who can reach 0.0.0.0 can use this server" in (tmp_path / "log").read_text()


@pytest.mark.model
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the core in /proc")
@pytest.mark.parametrize("restart", [False, True])
def test_kill_9_of_the_core(tmp_path, restart):
    with serving(tmp_path, *(["--restart"] if restart else [])) as (process, url):
        core = core_of(process)
        body = {"prompt": "Once", "max_tokens": 5000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            (tmp_path / "ready.json").unlink()
            os.kill(core, signal.SIGKILL)
            *_, error, done = lines
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_dead"
        assert done == "data: [DONE]"
        if restart:
            wait_for((tmp_path / "ready.json").exists, process)
            assert core_of(process) != core
            assert ask(url).status_code == 200
            process.terminate()
            assert process.wait(PATIENCE) == 0
        else:
            assert process.wait(PATIENCE) == 1
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert restart or re.fullmatch("error: the engine's process was ended by signal SIGKILL", last)


@pytest.mark.model
def test_the_benchmark_starts_a_server_of_its_own(ramet):
    load = ["--requests", 6, "--concurrency", 3, "--output-tokens", 4, "--prompt-tokens", 30, "--verify", 2]
    outcome = ramet("bench", "serve", *load, "--shared-prefix-tokens", 20)
    assert outcome.exit_code == 0, outcome.stderr
    assert "6 of 6" in outcome.stdout
    assert "failed" not in outcome.stdout
