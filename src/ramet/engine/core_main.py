"""The process of an engine core: what runs in it. The other side is `ramet.engine.core_process`.

The main thread steps; a second one receives messages, a third one ends the process when its parent is
gone. Signals that people send to a whole group of processes are left to the parent.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec
import zmq

from ramet.engine.build import build_core
from ramet.engine.codec import Ended, Ready, Start, decode_messages, encode, socket_address
from ramet.engine.core_loop import CoreLoop
from ramet.errors import EngineDead, RametError
from ramet.tokenizer.load import load_tokenizer

logger = logging.getLogger(__name__)


def main() -> None:
    """Run a core as told on standard input, until told to stop or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
    logging.basicConfig(level=start.log_level)
    watch = threading.Thread(target=_exit_with_parent, args=(start.directory,), daemon=True)
    watch.start()
    context = zmq.Context()
    messages, reports = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket in (messages, reports):
        socket.set_hwm(0)
    messages.connect(socket_address(start.directory, "messages"))
    reports.connect(socket_address(start.directory, "reports"))
    reports.send(encode([Ended(_serve(start, messages, reports))]))
    watch.join()  # the parent lets go of us once it has heard that


def _serve(start: Start, messages: zmq.Socket[bytes], reports: zmq.Socket[bytes]) -> RametError | None:
    """Load the model and run the core to its end; what went wrong, if something did."""
    try:
        started = time.monotonic()
        path = Path(start.path)
        core, card = build_core(start.config, path, load_tokenizer(path))
        loop = CoreLoop(core)
        gc.freeze()  # what is loaded stays: a collection that looks through it holds up a step
        threading.Thread(target=_receive, args=(messages, loop), daemon=True).start()
        reports.send(encode([Ready(card, time.monotonic() - started)]))
        loop.run(lambda outputs: reports.send(encode(outputs)))
    except RametError as error:
        return error
    except Exception as error:  # the top of the process: the parent must be told
        logger.exception("the engine core failed")
        return EngineDead(f"the engine core failed: {error}")
    return None


def _receive(messages: zmq.Socket[bytes], loop: CoreLoop) -> None:
    try:
        while True:
            loop.post(*decode_messages(messages.recv()))
    except Exception as error:  # the top of the thread: a core that hears nothing must not go on
        logger.exception("receiving messages failed")
        loop.fail(error)


def _exit_with_parent(directory: str) -> None:
    sys.stdin.buffer.read()
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
