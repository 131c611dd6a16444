"""The process around a server: how it starts, stops and dies. Its model is a parrot."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from served_parrot import REPLY

from ramet.cli.listening import listen
from ramet.config import ServerConfig
from ramet.errors import InvalidRequest

HERE = Path(__file__).parent
PATIENCE = 30.0  # seconds, for what takes far less
ASK = {"prompt": "say>", "max_tokens": 1000, "stream": True}


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)
    return found


class Parrot:
    """A process that serves one."""

    def __init__(self, folder, exit_with_parent=False, **server):
        self.folder = folder
        options = {"folder": str(folder), "server": server, "exit_with_parent": exit_with_parent}
        self.process = subprocess.Popen(
            [sys.executable, HERE / "served_parrot.py", json.dumps(options)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent / "engine")},
        )

    @property
    def url(self) -> str:
        """Where it serves; removed, so that the next start shows."""
        file = self.folder / "url"
        wait_for(lambda: file.exists() or self.process.poll() is not None, "the server")
        url = file.read_text()
        file.unlink()
        return url

    def touch(self, name):
        (self.folder / name).touch()

    def end(self) -> tuple[int, str]:
        """The exit code, and what it has written."""
        _, written = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, written


@pytest.fixture
def start(tmp_path):
    started = []

    def start(**options):
        started.append(Parrot(tmp_path, **options))
        return started[-1]

    yield start
    for parrot in started:
        with parrot.process:  # closes its pipes
            parrot.process.kill()


@contextmanager
def streaming(url):
    """A stream under way: its lines, the first of which has come."""
    with httpx.stream("POST", f"{url}/v1/completions", json=ASK, timeout=PATIENCE) as response:
        lines = (line for line in response.iter_lines() if line)
        yield [next(lines)], lines


def text_of(lines) -> str:
    events = [line.removeprefix("data: ") for line in lines]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish_and_turns_new_ones_away(start, number):
    parrot = start()
    url = parrot.url
    with ExitStack() as stack:
        streams = [stack.enter_context(streaming(url)) for _ in range(8)]
        parrot.process.send_signal(number)
        wait_for(lambda: httpx.get(f"{url}/health").status_code == 503, "the drain")
        refused = httpx.post(f"{url}/v1/completions", json=ASK)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "stopping"
        assert int(refused.headers["Retry-After"]) > 0
        parrot.touch("go")
        for first, rest in streams:
            assert text_of([*first, *rest]) == REPLY
    code, written = parrot.end()
    assert code == 0, written
    assert "Traceback" not in written
    assert "waiting up to 30 s for 8 requests" in written


def test_requests_that_do_not_finish_in_time_are_aborted(start):
    parrot = start(drain_seconds=0.1)
    with streaming(parrot.url) as (_, rest):
        parrot.process.terminate()
        *_, error, done = rest
    assert "request_aborted" in error
    assert done == "data: [DONE]"
    code, written = parrot.end()
    assert code == 0, written
    assert "Traceback" not in written


def test_a_second_signal_does_not_wait(start):
    parrot = start()
    with streaming(parrot.url) as (_, rest):
        parrot.process.terminate()
        wait_for(lambda: "waiting up to" in parrot.process.stderr.readline(), "the drain to begin")
        parrot.process.terminate()
        *_, error, _ = rest
    assert "request_aborted" in error
    assert parrot.end()[0] == 128 + signal.SIGTERM


def test_it_ends_with_its_parent_if_told_to(start):
    parrot = start(exit_with_parent=True)
    url = parrot.url
    assert httpx.get(f"{url}/health").status_code == 200
    parrot.process.stdin.close()
    parrot.process.wait(PATIENCE)
    assert parrot.process.returncode == 0


def test_if_the_engine_dies_requests_end_with_an_error_and_the_process_with_a_code(start):
    parrot = start()
    with streaming(parrot.url) as (_, rest):
        parrot.touch("die")
        *_, error, done = rest
    assert "engine_dead" in error
    assert done == "data: [DONE]"
    code, written = parrot.end()
    assert code == 1
    assert written.splitlines()[-1] == "error: the engine core failed: the parrot has ceased to be"


def test_if_the_engine_dies_another_one_takes_its_place_if_wanted(start):
    parrot = start(restart=True)
    parrot.touch("go")
    first_url = parrot.url
    parrot.touch("die")
    assert parrot.url == first_url, "the socket is the same"
    with streaming(first_url) as (first, rest):
        assert text_of([*first, *rest]) == REPLY
    parrot.process.terminate()
    code, written = parrot.end()
    assert code == 0
    assert "the parrot has ceased to be; starting anew in 1 s" in written


def test_a_certificate_makes_it_https(start, tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout {key} -out {certificate}"
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    parrot = start(ssl_certfile=str(certificate), ssl_keyfile=str(key))
    url = parrot.url
    assert url.startswith("https://")
    assert httpx.get(f"{url}/health", verify=False).status_code == 200


def test_a_certificate_that_is_none_is_told(start, tmp_path):
    (tmp_path / "certificate.pem").write_text("nothing")
    code, written = start(ssl_certfile=str(tmp_path / "certificate.pem")).end()
    assert code == 1
    assert "error: the certificate or its key cannot be used" in written


def test_a_connection_that_asks_nothing_is_closed(start):
    parrot = start(body_seconds=0.1)
    host, port = parrot.url.removeprefix("http://").split(":")
    for beginning in (b"", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            connection.sendall(beginning)
            assert connection.recv(1000) == b""


def test_a_port_that_is_taken_is_told():
    with listen(ServerConfig(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InvalidRequest, match=f"cannot listen on 127.0.0.1:{port}"):
            listen(ServerConfig(port=port))


def test_an_address_that_does_not_exist_is_told():
    with pytest.raises(InvalidRequest, match="cannot listen on no such host"):
        listen(ServerConfig(host="no such host"))
