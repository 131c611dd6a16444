"""An engine core in a process of its own, as the text side holds it. The other side is `core_main`.

Messages travel over two sockets in a directory that only this user may enter, and that is gone as soon as
both are connected. Besides, each process holds the end of a pipe of the other: whichever dies, however it
dies, the other one notices at once. Works where there are Unix sockets: on Linux and macOS.

Invariant: when the core has ended, nothing is left of it: no process, file, descriptor or thread.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import msgspec
import zmq

from ramet.config import EngineConfig
from ramet.engine.codec import Ended, Ready, Report, Start, decode_reports, encode, socket_address
from ramet.engine.messages import Message, OnDeath, OnOutputs
from ramet.errors import EngineDead
from ramet.model_card import ModelCard

SHUTDOWN_SECONDS = 10.0
"""What a core gets to stop once it is told to. Its last step may be a long one."""

logger = logging.getLogger(__name__)


class CoreProcess:
    """Satisfies `RunningCore`; the callbacks are called on a thread that receives.

    The process loads its model while the caller does something else; then comes `wait_until_ready`.
    """

    def __init__(self, config: EngineConfig, path: Path) -> None:
        """Start loading the model at ``path``."""
        self._lock = threading.Lock()  # of the sending socket
        self._closed = False
        self._receiver: threading.Thread | None = None
        with ExitStack() as stack:
            self._directory = tempfile.mkdtemp(prefix="ramet-core-")  # mode 0700
            stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            context = zmq.Context()
            stack.callback(context.term)
            self._messages = stack.enter_context(context.socket(zmq.PUSH))
            self._reports = stack.enter_context(context.socket(zmq.PULL))
            for socket in (self._messages, self._reports):
                socket.set_hwm(0)  # neither side ever waits for the other one to read
                socket.linger = 0
            self._messages.bind(socket_address(self._directory, "messages"))
            self._reports.bind(socket_address(self._directory, "reports"))
            self._life, held = os.pipe()  # at its end when the process, which holds the other end, is gone
            stack.callback(os.close, self._life)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ramet.engine.core_main"],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(held,),
                    start_new_session=True,  # signals for our group are ours to act on
                )
            finally:
                os.close(held)
            stack.callback(self._end_process)
            self._tell(
                Start(
                    config=config,
                    path=str(path),
                    directory=self._directory,
                    log_level=logger.getEffectiveLevel(),
                )
            )
            self._poller = zmq.Poller()
            self._poller.register(self._reports, zmq.POLLIN)
            self._poller.register(self._life, zmq.POLLIN)
            self._resources = stack.pop_all()

    @property
    def pid(self) -> int:
        """The process's id, for people and logs."""
        return self._process.pid

    def wait_until_ready(self) -> ModelCard:
        """Wait until the model is loaded; what it is like.

        Raises:
            ModelError: it cannot be loaded. The process has ended.
            EngineDead: the process has ended, for another reason.
        """
        try:
            match self._receive():
                case [Ready(card, seconds)]:
                    logger.info("%s was loaded in %.1f s: %s", card.name, seconds, card.kernels)
                case [Ended(error)] if error is not None:
                    raise error
                case reports:
                    assert not reports, reports
                    raise EngineDead(f"{self._how_it_ended()} while it loaded the model")
            # A socket that can be written to is connected, as the one it reported by is
            connected = zmq.Poller()
            connected.register(self._messages, zmq.POLLOUT)
            connected.register(self._life, zmq.POLLIN)
            connected.poll()
            shutil.rmtree(self._directory)
        except BaseException:
            self.close()
            raise
        return card

    def start(self, on_outputs: OnOutputs, on_death: OnDeath) -> None:
        self._receiver = threading.Thread(
            target=self._run, args=(on_outputs, on_death), name="ramet-engine-reports", daemon=True
        )
        self._receiver.start()

    def send(self, *messages: Message) -> None:
        data = encode(messages)
        with self._lock:
            if self._closed:
                return
            try:
                self._messages.send(data, zmq.NOBLOCK)
            except zmq.Again:  # nobody is connected any more: it is dead, or useless
                self._process.kill()

    def join(self) -> None:
        if self._receiver is None:
            self.close()
            return
        self._receiver.join(SHUTDOWN_SECONDS)
        if self._receiver.is_alive():
            logger.warning("the engine's process did not stop in %g s and is killed", SHUTDOWN_SECONDS)
            self._process.kill()
            self._receiver.join()

    def close(self) -> None:
        """End the process at once, whatever it does, and free all that belongs to it."""
        with self._lock:
            self._closed = True
            self._resources.close()

    def _run(self, on_outputs: OnOutputs, on_death: OnDeath) -> None:
        death: EngineDead | None
        try:
            death = self._deliver(on_outputs)
        except Exception as error:  # the top of the loop: nothing below may fail without a word
            logger.exception("delivering what the engine's process reports failed")
            death = EngineDead(f"what the engine's process reports cannot be delivered: {error}")
        finally:
            self.close()
        if death is not None:
            on_death(death)

    def _deliver(self, on_outputs: OnOutputs) -> EngineDead | None:
        """Deliver outputs until the process has ended; why, unless it was told to."""
        while True:
            match self._receive():
                case []:
                    return EngineDead(self._how_it_ended())
                case [Ended(error)]:
                    return None if error is None else EngineDead(str(error))
                case reports:
                    on_outputs([report for report in reports if not isinstance(report, (Ready, Ended))])

    def _receive(self) -> list[Report]:
        """The next reports; none when the process has ended without a word."""
        while True:
            ready = dict(self._poller.poll())
            if self._reports in ready:
                return decode_reports(self._reports.recv())
            if self._life in ready:
                return []

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"the engine's process ended with exit code {code}"
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        return f"the engine's process was ended by signal {name}"

    def _tell(self, start: Start) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(start) + b"\n")
        except BrokenPipeError:  # it has ended already: whoever waits for it is told how
            logger.debug("the engine's process ended before it was told what to do")

    def _end_process(self) -> None:
        assert self._process.stdin is not None
        self._process.kill()  # unless it is gone; it has nothing more to say or to lose
        self._process.wait()
        self._process.stdin.close()
