"""Runs programs: each stream executes its steps in order on the background event loop.

A `Run` is one execution of a program; it has one `Stream`, and one more for every fork. The program
submits steps from its own thread and goes on; the stream runs them as long as there are any, so an
idle stream costs nothing and needs no shutting down.

Invariant: what a stream has executed (prompt, deltas, error) is touched on the event loop only, until the
stream is idle; what the program has written (variables, role) is kept on the program's side, in the order
in which the program wrote it. The first error stops a stream: its remaining steps are abandoned with that
error, so whoever waits for one of them learns the cause. It must not know Python functions or user handles.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ramet.backend import Backend
from ramet.errors import InvalidRequest, RequestAborted
from ramet.event_loop import background_loop
from ramet.lang.variable import Delta, Variable
from ramet.sampling_params import SamplingParams
from ramet.types import Generated, Part, Prompt, Role, RoleBegin, RoleEnd, Text

logger = logging.getLogger(__name__)


def plain_text(prompt: Prompt) -> str:
    """The text of a prompt without role marks."""
    return "".join(part.text for part in prompt.parts if isinstance(part, (Text, Generated)))


def cause_of(error: BaseException) -> str:
    """An error in one line, for the message of the error that wraps it."""
    return f"{type(error).__name__}: {error}"


class Notice:
    """Wakes everyone who waits for something to change. Used on the event loop only."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Step(ABC):
    """Something for a stream to do."""

    @abstractmethod
    async def execute(self, stream: Stream) -> None:
        """Do it. An exception stops the stream."""

    def abandon(self, error: BaseException) -> None:  # noqa: B027  most steps owe nobody anything
        """It will not be done, or was not finished, because of this error."""


@dataclass(eq=False)
class Run:
    """One execution of a program, shared by its streams."""

    label: str  # names the program in messages
    backend: Backend
    defaults: SamplingParams
    streaming: bool = False  # text is recorded piece by piece
    is_async: bool = False  # the program is an ``async def``
    in_batch: bool = False  # ``label`` names the item
    observe: Callable[[Run, Prompt], None] | None = None  # told each prompt before it is sent
    loop: asyncio.AbstractEventLoop = field(default_factory=background_loop)
    notice: Notice = field(default_factory=Notice)
    busy: set[Stream] = field(default_factory=set)  # streams with a task; keeps those tasks alive
    cancelled: RequestAborted | None = None
    body_ended: bool = False  # the program's own code has returned or raised
    body_task: asyncio.Task[None] | None = None  # if it runs as a task, on whatever loop
    _hints: set[asyncio.Task[None]] = field(default_factory=set)

    def end_body(self) -> None:
        """The program's own code has ended. From any thread."""
        self.loop.call_soon_threadsafe(self._end_body)

    def _end_body(self) -> None:
        self.body_ended = True
        self.body_task = None
        self.notice.ring()

    def cancel(self) -> None:
        """Stop all streams. From any thread, and from the garbage collector: it takes no locks."""
        if self.cancelled is None and not self.loop.is_closed():
            self.cancelled = RequestAborted(f"{self.label} was cancelled")
            self.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        assert self.cancelled is not None, "cancel() says why before it schedules this"
        for stream in list(self.busy):
            stream.stop(self.cancelled)
        for hint in self._hints:
            hint.cancel()
        if (task := self.body_task) is not None:
            task.get_loop().call_soon_threadsafe(task.cancel)

    async def body_end(self) -> None:
        """Wait until the program's own code has ended."""
        while not self.body_ended:
            await self.notice.wait()

    async def settle(self) -> None:
        """Wait until the code has ended and all streams are idle."""
        await self.body_end()
        while self.busy:
            await self.notice.wait()

    def hint_prefix(self, prompt: Prompt) -> None:
        """Tell the backend that requests beginning like this will follow; nobody waits for it."""

        async def hint() -> None:
            await self.backend.cache_prefix(prompt)

        task = self.loop.create_task(hint())
        self._hints.add(task)
        task.add_done_callback(self._hint_ended)

    def _hint_ended(self, task: asyncio.Task[None]) -> None:
        self._hints.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("%s: the prefix hint failed: %s", self.label, cause_of(error))


class Stream:
    """One sequence of steps. Call `submit` from any thread; everything else runs on the event loop."""

    def __init__(self, run: Run, parent: Stream | None = None, label: str | None = None) -> None:
        self.run = run
        self.parent = parent
        self.label = label or run.label
        # the program's side
        self.variables: dict[str, Variable] = {}
        self.role: Role | None = None
        # the event loop's side
        self.prompt = Prompt()
        self.appended = Prompt()  # since the fork, or the last join
        self.deltas: list[Delta] = []  # of the whole text, if streaming
        self.error: BaseException | None = None
        self._queue: deque[Step] = deque()  # the step being executed stands first until it has been done
        self._task: asyncio.Task[None] | None = None
        self._begun = parent is None

    def fork(self, index: int) -> Stream:
        """A child with this stream's variables; it waits for `begin`. On the program's side."""
        child = Stream(self.run, self, f"fork {index} of {self.label}")
        child.variables = dict(self.variables)
        child.role = self.role
        return child

    @property
    def idle(self) -> bool:
        """Whether all that was submitted has been done: what the stream has come to can be read at once."""
        return self._begun and not self._queue

    def submit(self, step: Step) -> None:
        """Queue a step behind those already submitted."""
        self._queue.append(step)
        self.run.loop.call_soon_threadsafe(self._accept)

    def _accept(self) -> None:
        if self._begun or self.error is not None:
            self._work()
        self.run.notice.ring()

    def begin(self, error: BaseException | None = None) -> None:
        """The parent has come to the fork (or failed before it)."""
        assert self.parent is not None, "only forks wait for their beginning"
        self.prompt = self.parent.prompt
        self.deltas[:] = self.parent.deltas
        self.error = self.error or error
        self._begun = True
        self._work()

    def _work(self) -> None:
        """Make sure that queued steps are being executed, or abandon them if they cannot be."""
        if self._task is not None:
            return
        if self.error is None and self.run.cancelled is not None:
            self.error = self.run.cancelled
        if self.error is not None:
            self._abandon_queue(self.error)
        elif self._queue:
            self._task = self.run.loop.create_task(self._execute())
            self._task.add_done_callback(self._executed)
            self.run.busy.add(self)

    async def _execute(self) -> None:
        while self._queue and self.error is None:
            await self._queue[0].execute(self)
            self._queue.popleft()

    def _executed(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self.run.busy.discard(self)
        if task.cancelled():
            reason = RequestAborted(f"{self.label}: a request was cancelled by its backend")
            self.error = self.error or reason
        elif (error := task.exception()) is not None:
            self.error = self.error or error
        self._work()
        self.run.notice.ring()

    def _abandon_queue(self, error: BaseException) -> None:
        while self._queue:
            self._queue[0].abandon(error)
            self._queue.popleft()

    def stop(self, reason: BaseException) -> None:
        """Cancel what is running and abandon what is queued."""
        if self.error is None:
            self.error = reason
        if self._task is not None:
            self._task.cancel()
        else:
            self._abandon_queue(self.error)

    def cancel(self) -> None:
        """Stop this stream and the forks below it. From any thread."""
        self.run.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        reason = RequestAborted(f"{self.label} was cancelled")
        self.stop(reason)
        for stream in list(self.run.busy):
            if stream.descends_from(self):
                stream.stop(reason)

    def descends_from(self, other: Stream) -> bool:
        """Whether this is the other stream or a fork below it."""
        stream: Stream | None = self
        while stream is not None and stream is not other:
            stream = stream.parent
        return stream is not None

    def append(self, *parts: Part, streamed: bool = False) -> None:
        """Extend the prompt. ``streamed`` parts have been recorded as deltas already."""
        for part in parts:
            before, self.prompt = self.prompt, self.prompt.append(part)
            if self.run.streaming and not streamed:
                self._record(part, before)
        if self.parent is not None:
            self.appended = self.appended.append(*parts)

    def _record(self, part: Part, before: Prompt) -> None:
        if isinstance(part, (Text, Generated)):
            self.record(part.text, {})
        elif isinstance(part, (RoleBegin, RoleEnd)):
            # NOTE: a template may rewrite what stands before a mark (trim it, say). That text has been
            # handed out already, so then nothing is recorded for the mark.
            old, new = self._rendered(before), self._rendered(self.prompt)
            if new.startswith(old):
                self.record(new[len(old) :], {})

    def _rendered(self, prompt: Prompt) -> str:
        return self.run.backend.render(prompt) if prompt.has_roles else plain_text(prompt)

    def record(self, text: str, meta: dict[str, Any], variable: Variable | None = None) -> None:
        """Hand a piece of text to whoever iterates over this stream or the variable."""
        if text or meta:
            self.deltas.append((text, meta))
            if variable is not None:
                variable.deltas.append((text, meta))
            self.run.notice.ring()

    def require_role(self, role: Role, begins: bool) -> None:
        """Check that a message may begin or end here, on the program's side.

        Raises:
            InvalidRequest: messages would nest, or one would end that has not begun.
        """
        if begins and self.role is not None:
            raise InvalidRequest(
                f"{self.label}: the {role} message begins inside the {self.role} message; "
                f"end {self.role} first"
            )
        if not begins and self.role != role:
            open_role = f"the {self.role} message is open" if self.role else "no message is open"
            raise InvalidRequest(f"{self.label}: the {role} message ends here, but {open_role}")
