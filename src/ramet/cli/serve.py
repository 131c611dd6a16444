"""`ramet serve`: the options, the keys, and what is told before and when it serves.

The composition root of a server: an engine with its core in a process of its own, behind HTTP. What needs the
``server`` extra is imported when the command runs, while the model loads.
"""

from __future__ import annotations

import importlib
import importlib.util
import ipaddress
import json
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ramet.cli.listening import allow_many_connections, listen
from ramet.cli.options import takes_options
from ramet.cli.serve_log import log_to_stderr
from ramet.cli.serve_screen import show_first_screen
from ramet.cli.terminal import warn
from ramet.config import EngineConfig, ServerConfig
from ramet.errors import InvalidRequest
from ramet.model_card import ModelCard

_SERVER_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


@takes_options
def serve(
    engine: EngineConfig,
    server: ServerConfig,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="More keys, one per line: on the command line, everybody on this machine can read them.",
            show_default=False,
        ),
    ] = None,
    admin_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More admin keys, one per line.", show_default=False),
    ] = None,
    log_requests: Annotated[bool, typer.Option(help="Log a line per request.")] = True,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON, an object per line.")] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Write {"url", "pid"} there once it serves; removed at the end.',
            show_default=False,
        ),
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when stdin ends, as it does when a parent dies.")
    ] = False,
) -> None:
    """Serve a model over HTTP: OpenAI's interface and Ramet's own.

    Ctrl-C or SIGTERM lets running requests finish and turns new ones away; a second one does not wait.

    Example: [bold]ramet serve --port 8000 --api-key-file keys.txt[/bold]
    """
    _require_server_packages()
    log_to_stderr(as_json=log_json, requests=log_requests)
    if api_key_file is not None:
        server = replace(server, api_keys=(*server.api_keys, *_read_keys(api_key_file, "--api-key-file")))
    if admin_key_file is not None:
        server = replace(
            server, admin_keys=(*server.admin_keys, *_read_keys(admin_key_file, "--admin-key-file"))
        )
    if not (server.api_keys or _is_loopback(server.host)):
        warn(f"anybody who can reach {server.host} can use this server: pass --api-key-file or --api-key")
    allow_many_connections()
    with listen(server) as listener:
        importing = threading.Thread(target=importlib.import_module, args=("ramet.cli.serving",))
        importing.start()  # takes as long as loading a small model
        from ramet.engine.build import build_backend

        make_engine = partial(build_backend, engine, own_process=True)
        first_engine = make_engine()
        importing.join()
        from ramet.cli.serving import run_server

        try:
            code = run_server(
                first_engine,
                server,
                listener,
                on_ready=partial(_announce, server, ready_file),
                make_another=make_engine if server.restart else None,
                exit_with_parent=exit_with_parent,
            )
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
    raise typer.Exit(code)


def _announce(server: ServerConfig, ready_file: Path | None, url: str, card: ModelCard) -> None:
    if ready_file is not None:
        unfinished = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
        unfinished.write_text(json.dumps({"url": url, "pid": os.getpid()}), encoding="utf-8")
        unfinished.replace(ready_file)  # whoever waits for it finds all of it
    show_first_screen(url, card, server)


def _require_server_packages() -> None:
    missing = [name for name in _SERVER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidRequest(f"ramet serve needs {', '.join(missing)}: pip install 'ramet[server]'")


def _read_keys(path: Path, flag: str) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{flag}: cannot read {path}: {error}") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise InvalidRequest(f"{flag}: there is no key in {path}")
    return keys


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
