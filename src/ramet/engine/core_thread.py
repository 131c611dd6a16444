"""Runs an engine core in a thread of its own: messages in through a queue, outputs out through a callback."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from ramet.engine.core import EngineCore
from ramet.engine.messages import Message, Output, Shutdown
from ramet.errors import EngineDead

logger = logging.getLogger(__name__)


class CoreThread:
    """The step loop. ``on_outputs`` is called on its thread, ``on_death`` at most once, if the loop fails."""

    def __init__(
        self,
        core: EngineCore,
        on_outputs: Callable[[Sequence[Output]], None],
        on_death: Callable[[EngineDead], None],
    ) -> None:
        self._core = core
        self._on_outputs = on_outputs
        self._on_death = on_death
        self._inbox: queue.SimpleQueue[tuple[Message, ...]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ramet-engine-core", daemon=True)
        self._thread.start()

    def send(self, *messages: Message) -> None:
        """Queue messages for the next step, all of them for the same one. May be called from any thread."""
        self._inbox.put(messages)

    def join(self) -> None:
        """Wait for the loop to end after a `Shutdown`."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_messages():
                self._deliver(self._core.step())
        except Exception as error:  # the top of the loop: nothing below may fail without a word
            logger.exception("the engine core failed")
            death = EngineDead(f"the engine core failed: {error}")
            death.__cause__ = error
            self._on_death(death)
        finally:
            self._core.close()

    def _take_messages(self) -> bool:
        """Handle what has arrived, waiting if there is nothing else to do; false at the end."""
        block = not self._core.has_work
        while True:
            try:
                messages = self._inbox.get(block=block)
            except queue.Empty:
                return True
            for message in messages:
                self._deliver(self._core.handle(message))
                if isinstance(message, Shutdown):
                    return False
            block = False

    def _deliver(self, outputs: Sequence[Output]) -> None:
        if outputs:
            self._on_outputs(outputs)
