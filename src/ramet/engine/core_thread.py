"""An engine core in a thread of this process."""

from __future__ import annotations

import logging
import threading

from ramet.engine.core import EngineCore
from ramet.engine.core_loop import CoreLoop
from ramet.engine.messages import Message, OnDeath, OnOutputs
from ramet.errors import EngineDead

logger = logging.getLogger(__name__)


class CoreThread:
    """Satisfies `RunningCore`; the callbacks are called on the core's own thread."""

    def __init__(self, core: EngineCore) -> None:
        self._loop = CoreLoop(core)
        self._thread: threading.Thread | None = None

    def start(self, on_outputs: OnOutputs, on_death: OnDeath) -> None:
        self._thread = threading.Thread(
            target=self._run, args=(on_outputs, on_death), name="ramet-engine-core", daemon=True
        )
        self._thread.start()

    def send(self, *messages: Message) -> None:
        self._loop.post(*messages)

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _run(self, on_outputs: OnOutputs, on_death: OnDeath) -> None:
        try:
            self._loop.run(on_outputs)
        except Exception as error:  # the top of the loop: nothing below may fail without a word
            logger.exception("the engine core failed")
            death = EngineDead(f"the engine core failed: {error}")
            death.__cause__ = error
            on_death(death)
