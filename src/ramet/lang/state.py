"""`ProgramState`: what a program writes to and what its caller reads from.

Writing queues steps and returns at once. Reading waits for the value, on a plain thread by blocking and
in asynchronous code by awaiting the method with the ``a``. Every read of a value that was not produced
raises the reason. It must not know how Python functions become programs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import AbstractContextManager, aclosing, closing, contextmanager, nullcontext
from typing import Any, Literal, Self, overload

from ramet.errors import InvalidRequest, ProgramError
from ramet.event_loop import iterate, on_loop, relay
from ramet.lang import ir
from ramet.lang.api import message
from ramet.lang.body import Body
from ramet.lang.forks import Forks
from ramet.lang.interpreter import Stream, plain_text
from ramet.lang.reading import Reader
from ramet.lang.steps import Append, Choose, Fork, Generate, ScopeBegin, ScopeEnd
from ramet.lang.variable import Delta, Variable
from ramet.typed import Parse
from ramet.types import Role, RoleBegin, RoleEnd, Text


class ProgramState:
    """A handle of one stream of a running (or finished) program.

    The handle that the program itself writes to never waits for the program's code to end; the one its
    caller holds (``outside``) does, where it matters: with ``stream=True`` the code may still be running.
    """

    def __init__(self, stream: Stream, body: Body, *, outside: bool = False) -> None:
        self._stream = stream
        self._body = body
        self._reader = Reader(stream, body, outside)

    def __repr__(self) -> str:
        """With the text so far; does not wait."""
        return f"ProgramState({plain_text(self._stream.prompt)!r})"

    # ------------------------------------------------------------------------------------------ writing

    def __iadd__(self, expression: str | ir.Expr) -> Self:
        """Append text and expressions.

        Raises:
            InvalidRequest: not a string or an expression, a parameter out of range, messages that nest.
            ProgramError: the program was cancelled.
        """
        self._append(expression)
        return self

    def __setitem__(self, name: str, value: object) -> None:
        self.set_var(name, value)

    def set_var(self, name: str, value: object) -> None:
        """Set a variable.

        Raises:
            InvalidRequest: the name is not a string.
        """
        ir.check_name(name)
        self._stream.variables[name] = Variable.of(value)
        self._stream.run.loop.call_soon_threadsafe(self._stream.run.notice.ring)

    def system(self, expression: str | ir.Expr | None = None) -> AbstractContextManager[None]:
        """Append a system message; without an expression, a context manager around what it holds."""
        return self._message("system", expression)

    def user(self, expression: str | ir.Expr | None = None) -> AbstractContextManager[None]:
        """Append a user's message; without an expression, a context manager around what it holds."""
        return self._message("user", expression)

    def assistant(self, expression: str | ir.Expr | None = None) -> AbstractContextManager[None]:
        """Append a message of the assistant; without an expression, a context manager."""
        return self._message("assistant", expression)

    def _message(self, role: Role, expression: str | ir.Expr | None) -> AbstractContextManager[None]:
        if expression is None:
            return self._open_message(role)
        self._append(message(role, expression))
        return nullcontext()

    @contextmanager
    def _open_message(self, role: Role) -> Iterator[None]:
        self._append(ir.RoleBegin(role))
        try:
            yield
        finally:
            if self._stream.role == role and self._stream.run.cancelled is None:
                self._append(ir.RoleEnd(role))

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """The text appended inside, without role marks, becomes the variable ``name``.

        Raises:
            InvalidRequest: the name is not a string.
        """
        ir.check_name(name)
        begin = ScopeBegin()
        self._stream.submit(begin)
        try:
            yield
        finally:
            self._stream.submit(ScopeEnd(begin, self._new_variable(name)))

    def fork(self, n: int = 1) -> Forks:
        """``n`` copies that go on from here at the same time.

        They begin when what is queued so far is done; this state may go on meanwhile. As a context
        manager the forks are joined on the way out.

        Raises:
            InvalidRequest: ``n`` is not a positive integer.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidRequest(f"the number of forks must be an integer of at least 1, got {n!r}")
        self._require_running()
        children = [self._stream.fork(index) for index in range(n)]
        self._stream.submit(Fork(children))
        return Forks(self._stream, [ProgramState(child, self._body) for child in children])

    @contextmanager
    def copy(self) -> Iterator[ProgramState]:
        """``with s.copy() as t``: one fork, joined (its new variables gathered) on the way out."""
        with self.fork(1) as forks:
            yield forks[0]

    def cancel(self) -> None:
        """Abort what is running and drop what is queued, here and in the forks below. Does not wait."""
        if self._stream.parent is None:
            self._stream.run.cancel()
        else:
            self._stream.cancel()

    def _append(self, expression: object) -> None:
        nodes = ir.as_nodes(expression)
        self._require_running()
        for node in nodes:
            self._append_node(node)

    def _append_node(self, node: ir.Node) -> None:
        stream = self._stream
        match node:
            case ir.Const():
                stream.submit(Append((Text(node.text),)))
            case ir.Gen():
                params = stream.run.defaults.replace(**node.sampling)
                stream.submit(Generate(params, self._new_variable(node.name, node.parse)))
            case ir.Select():
                stream.submit(Choose(node.choices, node.method, self._new_variable(node.name)))
            case ir.RoleBegin():
                stream.require_role(node.role, begins=True)
                stream.role = node.role
                stream.submit(Append((RoleBegin(node.role),)))
            case ir.RoleEnd():
                stream.require_role(node.role, begins=False)
                stream.role = None
                stream.submit(Append((RoleEnd(node.role),)))

    def _new_variable(self, name: str | None, parse: Parse | None = None) -> Variable:
        variable = Variable(parse=parse)
        if name is not None:
            self._stream.variables[name] = variable
        return variable

    def _require_running(self) -> None:
        if (reason := self._stream.run.cancelled) is not None:
            raise ProgramError(str(reason)) from reason

    # ------------------------------------------------------------------------------------------ reading

    def __getitem__(self, name: str) -> Any:
        return self.get_var(name)

    def __contains__(self, name: str) -> bool:
        """Whether something that sets the variable has been written; does not wait."""
        return name in self._stream.variables

    def get_var(self, name: str) -> Any:
        """The value of a variable; waits until it is there.

        Raises:
            UnknownVariable: nothing sets it.
            ProgramError: it was not produced; the message says why, and ``__cause__`` is the reason.
        """
        return self._reader.outcome(name).value

    async def aget(self, name: str) -> Any:
        """`get_var`, awaited."""
        return (await self._reader.aoutcome(name)).value

    def value(self, name: str) -> Any:
        """The value of a variable in its type; waits like `get_var`, and raises like it.

        After ``gen(json_schema=...)`` that is the parsed JSON, or an instance of the model or type that was
        given; after ``gen(dtype=...)`` a number, bool or string; otherwise what `get_var` gives. With
        ``n > 1`` it is a list of values, after a join a list with one entry per fork.

        Raises:
            ProgramError: ``max_tokens`` or a stop ended the text of a typed variable, so that it may be less
                than the value, even where it parses; or a model's own validator refuses the value.
        """
        return self._reader.typed(name, self._reader.outcome(name))

    async def avalue(self, name: str) -> Any:
        """`value`, awaited."""
        return self._reader.typed(name, await self._reader.aoutcome(name))

    def get_meta_info(self, name: str) -> Any:
        """How a variable came about; waits like `get_var`, and raises like it.

        After `gen`: a dict with ``finish_reason, stop_reason, prompt_tokens, cached_tokens,
        completion_tokens, logprobs`` (a list, or None) and ``token_ids``; with ``n > 1`` a list of these.
        After `select`: see `ramet.lang.select.select_meta`. After a join: a list, in fork order. None for
        a value the program set itself.
        """
        return self._reader.outcome(name).meta

    async def aget_meta_info(self, name: str) -> Any:
        """`get_meta_info`, awaited."""
        return (await self._reader.aoutcome(name)).meta

    def text(self) -> str:
        """All text so far, roles written out the way the model sees them; waits for what is queued.

        Raises:
            ProgramError: something that was queued failed.
        """
        return self._reader.text_of(self._reader.read_prompt("text()", "atext()"))

    async def atext(self) -> str:
        """`text`, awaited."""
        return self._reader.text_of(await on_loop(self._reader.prompt()))

    def messages(self) -> list[dict[str, str]]:
        """The messages so far, as ``{"role", "content"}``; waits and raises like `text`."""
        return self._reader.read_prompt("messages()", "amessages()").messages()

    async def amessages(self) -> list[dict[str, str]]:
        """`messages`, awaited."""
        return (await on_loop(self._reader.prompt())).messages()

    def sync(self) -> None:
        """Wait for what is queued.

        Raises:
            ProgramError: something that was queued failed.
        """
        self._reader.read_prompt("sync()", "wait()")

    async def wait(self) -> None:
        """`sync`, awaited."""
        await on_loop(self._reader.prompt())

    def error(self) -> BaseException | None:
        """Wait for what is queued; the error that stopped it, or None."""
        return self._reader.read_failure("error()", "aerror()")

    async def aerror(self) -> BaseException | None:
        """`error`, awaited."""
        return await on_loop(self._reader.failure())

    @property
    def ret_value(self) -> Any:
        """What the program's function returned; waits for it, and raises what it raised."""
        if self._reader.outside and not self._stream.run.body_ended:
            self._reader.block(self._reader.body_end(), "ret_value", "wait()")
        return self._reader.body_result()

    def text_iter(self, name: str | None = None) -> Generator[str, None, None]:
        """The text, or that of one variable, piece by piece as it comes (with ``stream=True``).

        Constant text is included; without ``stream=True`` there is one piece. Every iterator starts
        from the beginning. Joined, the pieces are the text (with roles, up to a chat template that
        rewrites what was written before).

        Raises:
            ProgramError: from the iterator, when the pieces before the failure have been handed out.
        """
        self._reader.refuse_to_block("text_iter()", "text_async_iter()")
        with closing(iterate(self._reader.deltas(name))) as deltas:
            for text, _ in deltas:
                if text:
                    yield text

    @overload
    def text_async_iter(
        self, name: str | None = None, return_meta_data: Literal[False] = False
    ) -> AsyncGenerator[str, None]: ...
    @overload
    def text_async_iter(
        self, name: str | None = None, *, return_meta_data: Literal[True]
    ) -> AsyncGenerator[Delta, None]: ...
    async def text_async_iter(
        self, name: str | None = None, return_meta_data: bool = False
    ) -> AsyncGenerator[str | Delta, None]:
        """`text_iter` as an asynchronous iterator, on any loop.

        With ``return_meta_data``, pairs of text and a dict: of a generated piece its ``token_ids``,
        ``logprobs`` and ``finish_reason``, of the last one all of `get_meta_info`; else empty.
        """
        async with aclosing(relay(self._reader.deltas(name))) as deltas:
            async for text, meta in deltas:
                if return_meta_data:
                    yield text, meta
                elif text:
                    yield text
