"""A process that serves a parrot: ``python served_parrot.py '{"folder": …, "server": {…}}'``.

It writes its URL to ``url`` in the folder. Until there is a file ``go``, its model takes so long that no
request ends. Its engine dies when there is a file ``die``, which it removes.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from parrot import parrot

from ramet.cli.listening import listen
from ramet.cli.serve_log import log_to_stderr
from ramet.cli.serving import run_server
from ramet.config import ServerConfig
from ramet.errors import RametError

REPLY = "a parrot says what it has heard, again and again. " * 12
SECONDS_PER_TOKEN = 0.02


def main() -> int:
    given = json.loads(sys.argv[1])
    folder = Path(given["folder"])
    config = ServerConfig(**{"port": 0, **given["server"]})

    def exists(name: str) -> bool:
        return (folder / name).exists()

    def on_step(context: tuple[int, ...]) -> None:
        if not exists("go"):
            time.sleep(SECONDS_PER_TOKEN)

    def make_engine():
        engine = parrot(REPLY, num_slots=16384, on_step=on_step)
        threading.Thread(target=kill, args=(engine,), daemon=True).start()
        return engine

    def kill(engine) -> None:
        while not exists("die"):
            time.sleep(0.002)
        (folder / "die").unlink()
        engine._core._loop.fail(RuntimeError("the parrot has ceased to be"))

    def on_ready(url, card) -> None:
        unfinished = folder / "url.part"
        unfinished.write_text(url)
        unfinished.rename(folder / "url")

    log_to_stderr(as_json=False, requests=True)
    with listen(config) as listener:
        try:
            return run_server(
                make_engine(),
                config,
                listener,
                on_ready=on_ready,
                make_another=make_engine if config.restart else None,
                exit_with_parent=given.get("exit_with_parent", False),
            )
        except RametError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1


if __name__ == "__main__":
    sys.exit(main())
