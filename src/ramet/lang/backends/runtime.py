"""`Runtime`: a server process of one's own, and the way to it.

Invariant: the server does not outlive the process that started it. Options are the flags of ``ramet serve``,
which are the fields of `ramet.config`. It must not know what a server does.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from ramet.config import CacheConfig, EngineConfig, ModelOptions, SchedulerConfig, ServerConfig, flags_of
from ramet.errors import BackendError, InvalidRequest
from ramet.lang.backends.endpoint import Endpoint
from ramet.store.progress import spinner

STOP_SECONDS = 15.0
"""What a server gets to end by itself."""

_POLL_SECONDS = 0.02
_MAX_LINES = 40

OPTIONS: Mapping[str, Field[Any]] = {
    field.name: field
    for kind in (ModelOptions, CacheConfig, SchedulerConfig, EngineConfig, ServerConfig)
    for field in fields(kind)
    if "help" in field.metadata and not field.metadata.get("argument") and field.repr  # no secrets
}


class ServerProcess:
    """A process that runs ``ramet serve``.

    Args:
        arguments: of the command, besides those that say where it is found.
        api_keys: what it asks of clients; they travel in a file that nobody else can read.
    """

    def __init__(self, arguments: Sequence[str], api_keys: Sequence[str] = ()) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="ramet-")
        self._ready_file = Path(self._directory.name) / "ready.json"
        command = [sys.executable, "-m", "ramet", "serve", *arguments]
        command += ["--ready-file", str(self._ready_file), "--exit-with-parent", "--no-log-requests"]
        if api_keys:
            key_file = Path(self._directory.name) / "keys.txt"
            key_file.write_text("\n".join(api_keys), encoding="utf-8")
            command += ["--api-key-file", str(key_file)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # held open: its end tells the server that we have gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for us, not for the server
        )
        self._last_lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._reader = threading.Thread(target=self._read, name="ramet-server-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, timeout: float) -> str:
        """The URL, once it serves.

        Raises:
            BackendError: it ended before, or took too long; the message has its last lines.
        """
        give_up_at = time.monotonic() + timeout
        while not self._ready_file.exists():
            try:
                code = self._process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if time.monotonic() < give_up_at:
                    continue
                raise BackendError(self._told(f"the server did not start within {timeout:g} s")) from None
            self._reader.join()
            raise BackendError(self._told(f"the server did not start (exit code {code})"))
        url = json.loads(self._ready_file.read_text())["url"]
        assert isinstance(url, str), "the ready file says where the server is"
        return url

    def stop(self) -> None:
        """End it. May be called more than once."""
        self._process.terminate()  # does nothing if it has ended
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._reader.join()
        self._directory.cleanup()

    def _read(self) -> None:
        """Keep the last lines it has written. Read always: a full pipe would stop it."""
        assert self._process.stderr is not None, "stderr is a pipe"
        with self._process.stderr as lines:
            for line in lines:
                self._last_lines.append(line.decode(errors="replace").rstrip())

    def _told(self, what: str) -> str:
        return "\n".join([what + (", it said:" if self._last_lines else ""), *self._last_lines])


class Runtime(Endpoint):
    """A server of one's own on a free port, held like an `Engine`. A context manager.

    It is started here, and ends with `shutdown`, at the end of the context or of this process, however that
    ends.

    Args:
        model: a GGUF file, a Hugging Face folder or a hub id; ``None`` is the bundled model.
        launch_timeout: seconds it may take to serve.
        api_key: what the server asks of its clients; ``None``: nothing.
        **options: what ``ramet serve`` takes, such as ``max_kv_tokens=…`` or ``port=…``.

    Raises:
        InvalidRequest: an unknown option.
        BackendError: the server did not start; the message says what it said.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        launch_timeout: float = 300.0,
        api_key: str | None = None,
        **options: Any,
    ) -> None:
        arguments = serve_arguments(model, {"port": 0, **options})
        self._server = ServerProcess(arguments, [api_key] if api_key else [])
        atexit.register(self._server.stop)
        try:
            with spinner(f"Starting a server with {model or 'the bundled model'}"):
                url = self._server.wait_ready(launch_timeout)
            super().__init__(url, api_key)
        except BaseException:
            self._stop_server()
            raise

    @property
    def endpoint(self) -> Endpoint:
        """Itself: where SGLang's programs look for it."""
        return self

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._server.pid

    def shutdown(self) -> None:
        """Abort what runs and end the server; it has ended on return. May be called more than once."""
        super().close()
        self._stop_server()

    def close(self) -> None:
        """`shutdown`."""
        self.shutdown()

    def _stop_server(self) -> None:
        self._server.stop()
        atexit.unregister(self._server.stop)


def serve_arguments(model: str | None, options: Mapping[str, Any]) -> list[str]:
    """Options as arguments of ``ramet serve``.

    Raises:
        InvalidRequest: an option that does not exist.
    """
    arguments = [] if model is None else [model]
    for name, value in options.items():
        if name not in OPTIONS:
            raise InvalidRequest(f"unknown option {name!r} (known: {', '.join(sorted(OPTIONS))})")
        arguments += _flags(OPTIONS[name], value)
    return arguments


def _flags(field: Field[Any], value: Any) -> Iterator[str]:
    flag, *off = flags_of(field)
    if off and isinstance(value, bool):
        yield flag if value else off[0]
    elif value is not None:
        for each in value if isinstance(value, (list, tuple)) else [value]:
            yield f"{flag}={each}"
