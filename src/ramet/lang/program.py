"""`Program`: a Python function that writes to a state, made by ``@function``.

Lives here: calling the function in the caller's thread, in a thread of its own, on an event loop or many
times over. Invariant: what the function raises is raised by ``run`` or kept in the run and raised when
something is read, never lost; a run whose caller got an exception has nothing left running.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

from ramet.errors import InvalidRequest
from ramet.event_loop import background_loop, on_background_thread, on_loop, run_sync
from ramet.lang.api import sampling_overrides
from ramet.lang.arguments import Parameters
from ramet.lang.batch import BATCH_CHUNK, SharedPrefix, num_workers, run_all
from ramet.lang.body import Body
from ramet.lang.context import calling, choose_backend
from ramet.lang.interpreter import Run, Stream
from ramet.lang.state import ProgramState
from ramet.sampling_params import SamplingParams


class Program:
    """A language-model program. Make one with ``@function``; run it with `run` or by calling it."""

    def __init__(self, function: Callable[..., Any], parameters: Parameters | None = None) -> None:
        if not inspect.isroutine(function):
            raise InvalidRequest(f"@function makes a program of a function, not of {function!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidRequest(
                f"program {function.__name__!r} must not yield: append to s, and stream with stream=True"
            )
        self._function = function
        self._parameters = parameters or Parameters(function)
        self.name = self._parameters.program
        self.is_async = inspect.iscoroutinefunction(function)
        functools.update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<program {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> ProgramState:
        """`run`. Inside another program it runs on that program's backend, unless given one."""
        return self.run(*args, **kwargs)

    def bind(self, **values: Any) -> Program:
        """The program with some arguments filled in; positional ones then fill the rest.

        Raises:
            InvalidRequest: not a parameter, or bound already. Giving a bound argument to ``run`` is refused
                as well.
        """
        return Program(self._function, self._parameters.bind(self._function, values))

    def run(self, *args: Any, backend: Any = None, stream: bool = False, **kwargs: Any) -> ProgramState:
        """Run the program's code and return its state, from which values are read.

        Returns when the code has written everything: what it asked for may still be running, and is waited
        for where it is read. The code runs in the calling thread; of an ``async def`` program, on the
        background event loop. With ``stream=True`` it runs in the background, this returns at once, and
        text can be followed with `ProgramState.text_iter`.

        Args:
            *args: positional arguments of the function, after ``s``.
            backend: an engine or a `Backend`; else the calling program's, else the default one.
            stream: record text piece by piece.
            **kwargs: arguments of the function by name, and sampling parameters, which are the defaults
                of every `gen` in the program. A name that is both goes to the function.

        Raises:
            InvalidRequest: an argument is missing or unknown, or there is no backend.
            BaseException: what the program's code raises (not with ``stream=True``: then it is raised when
                the state is read). Everything the program had started is aborted.
        """
        if self.is_async and not stream and on_background_thread():
            raise InvalidRequest(
                f"program {self.name!r}: run() would block the event loop; "
                f"use `await {self.name}.arun(...)` there"
            )
        launch = self._launch(args, kwargs, backend, stream)
        if stream:
            launch.start(background_loop())
        else:
            launch.execute(keep_error=False)
        return launch.state

    async def arun(
        self, *args: Any, backend: Any = None, stream: bool = False, **kwargs: Any
    ) -> ProgramState:
        """`run`, awaited: returns when everything the state and its forks were given has been done.

        So plain ``state["x"]`` and ``state.text()`` do not block afterwards. The code of an ``async def``
        program runs on the caller's event loop, that of a plain one in a thread. Failures of what was asked
        for are raised when read, as always. Cancelling it aborts the program.
        """
        launch = self._launch(args, kwargs, backend, stream)
        if stream:
            launch.start(asyncio.get_running_loop())
            return launch.state
        finished = False
        try:
            await launch.finish()
            finished = True
        finally:
            if not finished:
                launch.run.cancel()
        return launch.state

    @overload
    def run_batch(
        self,
        batch_arguments: Sequence[Mapping[str, Any] | Sequence[Any]],
        *,
        backend: Any = None,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[False] = False,
        **sampling: Any,
    ) -> list[ProgramState]: ...
    @overload
    def run_batch(
        self,
        batch_arguments: Sequence[Mapping[str, Any] | Sequence[Any]],
        *,
        backend: Any = None,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[True],
        **sampling: Any,
    ) -> Iterator[ProgramState]: ...
    def run_batch(
        self,
        batch_arguments: Sequence[Mapping[str, Any] | Sequence[Any]],
        *,
        backend: Any = None,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        **sampling: Any,
    ) -> list[ProgramState] | Iterator[ProgramState]:
        """Run the program once for each item, at the same time; the finished states, in order.

        If items fail, the others finish all the same. A failed item's state raises when what it lacks is
        read, saying which item it is; its ``error()`` is the reason; a warning is logged that lists them.

        The text that the first prompts of the first two programs have in common is announced to the
        backend, once, if it is longer than 64 characters. That is found in passing and delays nothing.

        Args:
            batch_arguments: for each run a dict of arguments, or a tuple of positional ones.
            backend: as for `run`.
            num_threads: how many programs run at a time; "auto" is all, up to 96.
            progress_bar: show one on standard error.
            generator_style: return an iterator that runs chunks of 200 items as it is read.
            **sampling: sampling parameters, as for `run`.

        Raises:
            InvalidRequest: an item does not fit the function (before any is run), an unknown parameter, or
                there is no backend.
        """
        if isinstance(batch_arguments, (str, Mapping)) or not isinstance(batch_arguments, Sequence):
            raise InvalidRequest(
                f"batch_arguments must be a list of dicts or tuples, got {type(batch_arguments).__name__}"
            )
        workers = num_workers(num_threads)
        items = [self._parameters.item(index, item) for index, item in enumerate(batch_arguments)]
        defaults = SamplingParams().replace(**sampling_overrides(sampling))
        chosen = choose_backend(backend, self.name)
        shared = SharedPrefix() if len(items) > 1 else None

        def launch(index: int) -> Launch:
            run = Run(
                f"item {index} of run_batch: program {self.name!r}",
                chosen,
                defaults,
                is_async=self.is_async,
                in_batch=True,
                observe=shared.observe if shared is not None else None,
            )
            return Launch(self._function, items[index], run)

        def chunk(start: int, end: int) -> list[ProgramState]:
            launches = [launch(index) for index in range(start, end)]
            run_all(launches, workers, start, self.name if progress_bar else None)
            return [each.state for each in launches]

        if generator_style:
            return (
                state
                for start in range(0, len(items), BATCH_CHUNK)
                for state in chunk(start, min(start + BATCH_CHUNK, len(items)))
            )
        return chunk(0, len(items))

    def _launch(self, args: Sequence[Any], kwargs: Mapping[str, Any], backend: Any, stream: bool) -> Launch:
        arguments, sampling = self._parameters.split(args, kwargs)
        run = Run(
            f"program {self.name!r}",
            choose_backend(backend, self.name),
            SamplingParams().replace(**sampling_overrides(sampling)),
            streaming=stream,
            is_async=self.is_async,
        )
        return Launch(self._function, arguments, run)


class Launch:
    """One call of a program's function: the state it writes to, and the one its caller reads."""

    def __init__(self, function: Callable[..., Any], arguments: inspect.BoundArguments, run: Run) -> None:
        self.run = run
        self.stream = Stream(run)
        self.body = Body(run)
        self.state = ProgramState(self.stream, self.body, outside=True)
        self._written = ProgramState(self.stream, self.body)
        self._function = function
        self._arguments = arguments

    def execute(self, keep_error: bool) -> None:
        """Run the code here; that of an ``async def`` program on the background loop."""
        if self.run.is_async:
            run_sync(self.aexecute(keep_error))
            return
        with self.body.executing(keep_error), calling(self.run.backend):
            self.body.ret_value = self._call()

    async def aexecute(self, keep_error: bool) -> None:
        """Run the code of an ``async def`` program on this loop."""
        with self.body.executing(keep_error), calling(self.run.backend):
            self.body.ret_value = await self._call()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the code without waiting for it, on the loop or in a thread of its own; errors are kept."""
        if not self.run.is_async:
            target = functools.partial(contextvars.copy_context().run, self.execute, keep_error=True)
            threading.Thread(target=target, name=f"ramet-{self._function.__name__}", daemon=True).start()
            return

        def begin() -> None:
            self.run.body_task = loop.create_task(self.aexecute(keep_error=True))
            self.run.body_task.add_done_callback(ended)

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # before it began, for the code itself keeps its errors
                self.body.end(asyncio.CancelledError())

        loop.call_soon_threadsafe(begin)

    async def finish(self) -> None:
        """Run the code, on this loop or in a thread, and wait until all it wrote has been done."""
        if self.run.is_async:
            await self.aexecute(keep_error=False)
        else:
            self.start(asyncio.get_running_loop())
            await on_loop(self.run.body_end())
            if self.body.error is not None:
                raise self.body.error
        await on_loop(self.run.settle())

    def complete(self) -> None:
        """Run the code and wait until nothing is running any more; errors are kept."""
        self.execute(keep_error=True)
        run_sync(self.run.settle())

    def _call(self) -> Any:
        return self._function(self._written, *self._arguments.args, **self._arguments.kwargs)


@overload
def function(func: Callable[..., Any]) -> Program: ...
@overload
def function() -> Callable[[Callable[..., Any]], Program]: ...
def function(
    func: Callable[..., Any] | None = None,
) -> Program | Callable[[Callable[..., Any]], Program]:
    """Make a program of a Python function whose first parameter is ``s``, the state it writes to.

    Use as ``@function`` or ``@function()``, on plain and on ``async def`` functions.

    Raises:
        InvalidRequest: the first parameter is not named ``s``, or it is not a function.
    """
    return Program if func is None else Program(func)
