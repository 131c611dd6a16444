"""`Runtime`: a server that starts with its owner's word and ends with its owner."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

import ramet as rm
from ramet.lang.backends.runtime import OPTIONS, serve_arguments

OWNER = """
import sys
import ramet as rm
runtime = rm.Runtime(max_kv_tokens=512)
print(runtime.pid, flush=True)
sys.stdin.read()
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:  # one that has ended and was not waited for is not running
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.model
def test_a_server_of_ones_own():
    @rm.function
    def ask(s):
        s += rm.user("Say hello.") + rm.assistant(rm.gen("answer", max_tokens=4, temperature=0))

    with rm.Runtime(max_kv_tokens=512, api_key="secret") as runtime:
        assert httpx.get(runtime.url + "/model_info").status_code == 401
        assert ask.run(backend=runtime)["answer"]
        assert ask.run(backend=runtime.endpoint, stream=True).text().startswith("<|im_start|>")
        assert runtime.stats().total_slots == runtime.model_info()["num_slots"] == 512
        pid = runtime.pid
        assert is_running(pid)
    assert not is_running(pid)
    runtime.shutdown()  # once more does nothing
    with pytest.raises(rm.BackendError, match="closed"):
        runtime.generate("x")


@pytest.mark.model
@pytest.mark.parametrize("end", ["killed", "leaves"])
def test_the_server_ends_with_the_process_that_started_it(end):
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with owner:
        pid = int(owner.stdout.readline())
        assert is_running(pid)
        if end == "killed":
            owner.send_signal(signal.SIGKILL)
        else:
            owner.stdin.close()
        owner.wait(30)
        give_up_at = time.monotonic() + 30
        while is_running(pid) and time.monotonic() < give_up_at:
            os.sched_yield()
        assert not is_running(pid)


def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(rm.BackendError, match="no-such-model"):
        rm.Runtime(str(tmp_path / "no-such-model"))


def test_options_are_the_flags_of_serve():
    options = {
        "port": 8123,
        "enable_prefix_cache": False,
        "enable_jump_forward": True,
        "isolate_clients": False,
        "cors_origins": ("a", "b"),
        "max_kv_tokens": None,
        "num_threads": 2,
    }
    assert serve_arguments("m", options) == [
        "m",
        "--port=8123",
        "--disable-prefix-cache",
        "--enable-jump-forward",
        "--no-isolate-clients",
        "--cors-origin=a",
        "--cors-origin=b",
        "--threads=2",
    ]
    told = subprocess.run(
        [sys.executable, "-m", "ramet", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "400"},
    ).stdout
    for name in OPTIONS:
        (argument,) = serve_arguments(None, {name: True if isinstance(OPTIONS[name].default, bool) else 1})
        assert argument.partition("=")[0] + " " in told + " ", name


@pytest.mark.parametrize("name", ["max_kv_token", "model", "api_keys"])
def test_an_option_that_does_not_exist_is_refused(name):
    with pytest.raises(rm.InvalidRequest, match=f"unknown option '{name}'"):
        rm.Runtime(**{name: 1}) if name != "model" else serve_arguments(None, {name: 1})
