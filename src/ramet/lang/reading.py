"""How values get out of a stream: waiting for them, and turning what went wrong into errors.

Invariant: a wait ends. Whatever is waited for is delivered or abandoned by its stream, and a wait that
would block an event loop is refused with the asynchronous way to do it. It must not know handles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from ramet.errors import ProgramError, RequestAborted, UnknownVariable
from ramet.event_loop import on_background_thread, on_loop, run_sync, settled
from ramet.lang.body import Body
from ramet.lang.interpreter import Stream, cause_of, plain_text
from ramet.lang.steps import Checkpoint, Snapshot
from ramet.lang.variable import Delta, Outcome, Variable
from ramet.typed import Parse
from ramet.types import Prompt

T = TypeVar("T")


class Reader:
    """Reads one stream. ``outside`` readers also wait for the program's own code where it matters.

    That is: with ``stream=True`` the code may not have written yet what its caller asks for. The code itself
    must never wait for its own end.
    """

    def __init__(self, stream: Stream, body: Body, outside: bool) -> None:
        self.stream = stream
        self.body = body
        self.outside = outside

    # ------------------------------------------------------------------------------- on the caller's side

    def outcome(self, name: str) -> Outcome:
        """The value of a variable and its meta information, waiting for them.

        Raises:
            UnknownVariable: nothing sets it.
            ProgramError: it was not produced, or waiting would block an event loop.
        """
        if self._find(name) is None and self._awaits_body():
            self.block(self._written(name), f"reading {name!r}", f"aget({name!r})")
        variable = self._known(name)
        if not variable.settled:
            self.refuse_to_block(f"reading {name!r}", f"aget({name!r})")
        return self._outcome(name, variable, variable.outcome.exception())

    async def aoutcome(self, name: str) -> Outcome:
        """`outcome`, awaited on any loop."""
        if self._find(name) is None and self._awaits_body():
            await on_loop(self._written(name))
        variable = self._known(name)
        return self._outcome(name, variable, await settled(variable.outcome))

    def typed(self, name: str, outcome: Outcome) -> Any:
        """The outcome of a variable as a value of its type.

        Raises:
            ProgramError: the text is no such value, or was cut short.
        """
        if outcome.parts is not None:
            return [self.typed(name, part) for part in outcome.parts]
        parse = outcome.parse
        if parse is None:
            return outcome.value
        several = isinstance(outcome.value, list)
        texts: list[str] = outcome.value if several else [outcome.value]
        metas: list[dict[str, Any]] = outcome.meta if several else [outcome.meta]
        values = [self._parsed(name, parse, *pair) for pair in zip(texts, metas, strict=True)]
        return values if several else values[0]

    def _parsed(self, name: str, parse: Parse, text: str, meta: dict[str, Any]) -> Any:
        # NOTE: before parsing, for the beginning of a value may be another one: 12 of 1234
        if meta["finish_reason"] == "length":
            raise self._incomplete(name, "max_tokens cut it short")
        if meta["stop_reason"] is not None:
            raise self._incomplete(name, f"stop {meta['stop_reason']!r} cut it short")
        try:
            return parse(text)
        except Exception as error:  # whatever a model's own validators raise
            raise self._incomplete(name, cause_of(error)) from error

    def _incomplete(self, name: str, why: str) -> ProgramError:
        return ProgramError(f"{self.stream.label}: {name!r} is not a complete value ({why})")

    def read_prompt(self, what: str, instead: str) -> Prompt:
        """`prompt`, waiting for it."""
        return self._prompt_of(self._snapshot_now() or self.block(self.snapshot(), what, instead))

    def read_failure(self, what: str, instead: str) -> BaseException | None:
        """`failure`, waiting for it."""
        return self._failure_of(self._snapshot_now() or self.block(self.snapshot(), what, instead))

    def block(self, coroutine: Coroutine[Any, Any, T], what: str, instead: str) -> T:
        """Wait for a coroutine on a plain thread."""
        try:
            self.refuse_to_block(what, instead)
        except ProgramError:
            coroutine.close()
            raise
        return run_sync(coroutine)

    def refuse_to_block(self, what: str, instead: str) -> None:
        """Raise if waiting here would block the event loop of an asynchronous program."""
        if on_background_thread() or (self.stream.run.is_async and _inside_a_loop()):
            raise ProgramError(
                f"{self.stream.label}: {what} would block the event loop; use `await s.{instead}` there"
            )

    def text_of(self, prompt: Prompt) -> str:
        """A prompt as text, roles written out by the backend."""
        return self.stream.run.backend.render(prompt) if prompt.has_roles else plain_text(prompt)

    def body_result(self) -> Any:
        """What the program's function returned, once it has.

        Raises:
            BaseException: what it raised.
        """
        self._raise_body_error()
        return self.body.ret_value

    # ---------------------------------------------------------------------------------- on the event loop

    async def body_end(self) -> None:
        """Wait until the program's code has ended, as far as this reader may."""
        if self.outside:
            await self.stream.run.body_end()

    async def snapshot(self) -> Snapshot:
        """How things stand when all that is queued now has been done."""
        await self.body_end()
        checkpoint = Checkpoint(self.stream)
        self.stream.submit(checkpoint)
        await settled(checkpoint.snapshot)
        return checkpoint.snapshot.result()

    async def prompt(self) -> Prompt:
        """The prompt when all that is queued now has been done.

        Raises:
            ProgramError: some of it failed.
        """
        return self._prompt_of(await self.snapshot())

    async def failure(self) -> BaseException | None:
        """The error that stopped the program's code or the stream, if one did."""
        return self._failure_of(await self.snapshot())

    async def deltas(self, name: str | None) -> AsyncGenerator[Delta, None]:
        """The pieces of the whole text, or of a variable, from the beginning, as they come."""
        if name is None:
            pieces = self._text_deltas()
        else:
            await self._written(name)
            pieces = self._variable_deltas(name, self._known(name))
        async for delta in pieces:
            yield delta

    async def _variable_deltas(self, name: str, variable: Variable) -> AsyncGenerator[Delta, None]:
        async for delta in self._follow(variable.deltas, lambda: variable.settled):
            yield delta
        outcome = self._outcome(name, variable, variable.outcome.exception())
        if not variable.deltas:
            yield str(outcome.value), outcome.meta if isinstance(outcome.meta, dict) else {}

    async def _text_deltas(self) -> AsyncGenerator[Delta, None]:
        end = Checkpoint(self.stream)
        submitted = False

        def ended() -> bool:
            nonlocal submitted
            if not submitted and not self._awaits_body():
                submitted = True
                self.stream.submit(end)
            return end.snapshot.done()

        async for delta in self._follow(self.stream.deltas, ended):
            yield delta
        snapshot = end.snapshot.result()
        self._raise_failure(snapshot)
        if not self.stream.run.streaming and (text := self.text_of(snapshot.prompt)):
            yield text, {}

    async def _follow(self, deltas: list[Delta], ended: Callable[[], bool]) -> AsyncGenerator[Delta, None]:
        position = 0
        while True:
            finished = ended()  # before looking at the list: what comes later is not the end
            if position < len(deltas):
                yield deltas[position]
                position += 1
            elif finished:
                return
            else:
                await self.stream.run.notice.wait()

    async def _written(self, name: str) -> None:
        """Wait until something that sets the variable has been written, or nothing more will be."""
        while self._find(name) is None and self._awaits_body():
            await self.stream.run.notice.wait()

    # --------------------------------------------------------------------------------------------- either

    def _find(self, name: str) -> Variable | None:
        return self.stream.variables.get(name)

    def _known(self, name: str) -> Variable:
        stream = self.stream
        variable = stream.variables.get(name)
        if variable is not None:
            return variable
        if (error := self.body.error) is not None:
            raise ProgramError(
                f"{stream.label}: variable {name!r} was not set before the program raised {cause_of(error)}"
            ) from error
        known = ", ".join(sorted(stream.variables)) or "none"
        raise UnknownVariable(f"{stream.label} sets no variable {name!r} (known: {known})")

    def _awaits_body(self) -> bool:
        return self.outside and not self.stream.run.body_ended

    def _snapshot_now(self) -> Snapshot | None:
        """How things stand, if there is nothing to wait for."""
        stream = self.stream
        if self._awaits_body() or not stream.idle:
            return None
        return Snapshot(stream.prompt, stream.appended, stream.error)

    def _prompt_of(self, snapshot: Snapshot) -> Prompt:
        self._raise_failure(snapshot)
        return snapshot.prompt

    def _failure_of(self, snapshot: Snapshot) -> BaseException | None:
        return self.body.error or snapshot.error

    def _outcome(self, name: str, variable: Variable, error: BaseException | None) -> Outcome:
        if error is not None:
            raise ProgramError(
                f"{self.stream.label}: variable {name!r} was not produced: {cause_of(error)}"
            ) from error
        return variable.outcome.result()

    def _raise_failure(self, snapshot: Snapshot) -> None:
        self._raise_body_error()
        if snapshot.error is not None:
            raise ProgramError(f"{self.stream.label} failed: {cause_of(snapshot.error)}") from snapshot.error

    def _raise_body_error(self) -> None:
        """Raise what the program's own code raised: as it is, or for an item of a batch, saying which."""
        error = self.body.error
        if error is None:
            return
        if isinstance(error, RequestAborted):
            raise ProgramError(str(error)) from error
        if self.stream.run.in_batch:
            raise ProgramError(f"{self.stream.label} raised {cause_of(error)}") from error
        raise error


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
