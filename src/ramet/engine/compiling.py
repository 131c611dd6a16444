"""Requests whose grammar is being compiled, while the core goes on.

Invariant: a compile that no request waits for any more is given up. All requests that wait for the same
compile get its grammar at the same time. Called on the core's thread only, except that ``on_compiled`` is
called on the compiler's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeAlias

from ramet.constraints import Constraint
from ramet.errors import EngineError, RametError
from ramet.grammar.compiler import GrammarCompiler
from ramet.grammar.matcher import Grammar
from ramet.scheduler.request import Request

logger = logging.getLogger(__name__)

_Compile: TypeAlias = Future[Grammar]


class Compiling:
    """Hands constraints to a compiler and requests back with their grammars."""

    def __init__(self, compiler: GrammarCompiler, on_compiled: Callable[[], None]) -> None:
        """``on_compiled`` is told, on any thread, that `take` has something new."""
        self._compiler = compiler
        self._on_compiled = on_compiled
        self._requests: dict[_Compile, dict[str, Request]] = {}
        self._compiles: dict[str, tuple[_Compile, Constraint]] = {}  # by request
        self._done: SimpleQueue[_Compile] = SimpleQueue()

    def add(self, request: Request, constraint: Constraint) -> None:
        """Compile the constraint of a request."""
        compile_ = self._compiler.submit(constraint)
        self._compiles[request.request_id] = compile_, constraint
        waiting = self._requests.get(compile_)
        if waiting is not None:
            waiting[request.request_id] = request
            return
        self._requests[compile_] = {request.request_id: request}
        compile_.add_done_callback(self._finish)

    def give_up(self, request_id: str) -> None:
        """This request no longer waits, if it did."""
        found = self._compiles.pop(request_id, None)
        if found is None:
            return
        compile_, constraint = found
        waiting = self._requests[compile_]
        del waiting[request_id]
        if not waiting:
            del self._requests[compile_]
        self._compiler.give_up(constraint)

    def take(self) -> Iterator[tuple[Request, Grammar | RametError]]:
        """The requests whose grammar has been compiled since the last time, or why it cannot be."""
        while not self._done.empty():
            compile_ = self._done.get()
            for request_id, request in self._requests.pop(compile_, {}).items():
                del self._compiles[request_id]
                yield request, _outcome(compile_)

    def _finish(self, compile_: _Compile) -> None:
        self._done.put(compile_)
        self._on_compiled()


def _outcome(compile_: _Compile) -> Grammar | RametError:
    error = compile_.exception()
    if error is None:
        return compile_.result()
    if isinstance(error, RametError):
        return error
    logger.error("compiling a constraint failed", exc_info=error)
    return EngineError(f"compiling the constraint failed: {type(error).__name__}: {error}")
