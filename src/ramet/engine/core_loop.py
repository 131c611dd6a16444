"""The loop that feeds an engine core: messages from an inbox, a step, outputs to whoever wants them.

It is the same for a core in a thread and for one in a process of its own. Messages that were posted
together reach the core together, so that the branches of one call share a step.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence

from ramet.engine.core import EngineCore
from ramet.engine.messages import Compiled, Message, OnOutputs, Output, Shutdown


class CoreLoop:
    """Runs a core until it is told to stop. Owns the core."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._inbox: queue.SimpleQueue[tuple[Message, ...] | Exception] = queue.SimpleQueue()
        core.on_compiled = lambda: self.post(Compiled())

    def post(self, *messages: Message) -> None:
        """Queue messages for the next step, all of them for the same one. May be called from any thread."""
        self._inbox.put(messages)

    def fail(self, error: Exception) -> None:
        """Let `run` raise this: messages cannot be received any more. May be called from any thread."""
        self._inbox.put(error)

    def run(self, on_outputs: OnOutputs) -> None:
        """Take messages and compute steps until a `Shutdown`, on the caller's thread.

        Raises:
            Exception: whatever is wrong with the core; steps that fail are not.
        """
        try:
            while self._take_messages(on_outputs):
                _deliver(self._core.step(), on_outputs)
        finally:
            self._core.close()

    def _take_messages(self, on_outputs: OnOutputs) -> bool:
        """Pass on what has arrived, waiting if there is nothing else to do; false at the end."""
        block = not self._core.has_work
        while True:
            try:
                messages = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if isinstance(messages, Exception):
                raise messages
            _deliver(self._core.handle(*messages), on_outputs)
            if any(isinstance(message, Shutdown) for message in messages):
                return False
            block = False


def _deliver(outputs: Sequence[Output], on_outputs: OnOutputs) -> None:
    if outputs:
        on_outputs(outputs)
