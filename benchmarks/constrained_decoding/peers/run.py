"""Run in an engine's own Python as ``python run.py ADAPTER``: answers messages until its input ends.

The protocol is that of `engine.engine_process`: ``{"op": "load", "options": {...}}``, then any number of
``{"op": "session", "calls": [...]}``. What options and calls hold is between the adapter and who asks.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

if __name__ == "__main__":  # engines that start processes import this file again
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from engine.peers import wire

logger = logging.getLogger(__name__)


class Adapter(Protocol):
    """What is loaded."""

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        """Do what a call asks for."""
        ...


def serve(load: Callable[[dict[str, Any]], Adapter]) -> None:
    """Answer messages until the input ends."""
    wire.die_with_parent()
    inbox, outbox = wire.private_pipes()
    adapter: Adapter | None = None
    for line in inbox:
        message = json.loads(line)
        try:
            if message["op"] == "load":
                adapter = load(message["options"])
                answer: dict[str, Any] = {"ok": None}
            elif adapter is None:
                answer = {"error": "nothing is loaded"}
            else:
                answer = {"ok": [adapter.answer(call) for call in message["calls"]]}
        except Exception as error:  # the top of this process's loop: whatever went wrong is the answer
            logger.exception("%s failed", message["op"])
            answer = {"error": f"{type(error).__name__}: {error}"}
        outbox.write(json.dumps(answer) + "\n")
        outbox.flush()


if __name__ == "__main__":
    serve(importlib.import_module(f"constrained_decoding.peers.{sys.argv[1]}").load)
