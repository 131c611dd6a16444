"""`Forks`: the branches of a program, written to one by one or all at once, and joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from ramet.errors import InvalidRequest
from ramet.lang.interpreter import Stream
from ramet.lang.ir import Expr
from ramet.lang.steps import Checkpoint, Concatenate, GatherVariables
from ramet.lang.variable import Variable

if TYPE_CHECKING:
    from ramet.lang.state import ProgramState

JoinMode: TypeAlias = Literal["gather_variable", "concate_and_append"]
Appendable: TypeAlias = str | Expr


class Forks:
    """What ``s.fork(n)`` returns: a sequence of `ProgramState`, and a context manager that joins them."""

    def __init__(self, parent: Stream, states: Sequence[ProgramState]) -> None:
        self._parent = parent
        self._states = tuple(states)
        self._joined = False

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[ProgramState]:
        return iter(self._states)

    def __getitem__(self, index: int) -> ProgramState:
        return self._states[index]

    def __setitem__(self, index: int, state: ProgramState) -> None:
        """For ``forks[i] += …`` only, which puts back the same state."""
        if state is not self._states[index]:
            raise InvalidRequest("a fork cannot be replaced; append to it with forks[i] += …")

    def __iadd__(self, expression: Appendable | Sequence[Appendable] | Callable[[int], Appendable]) -> Self:
        """Append the same to every fork, one item of a list to each, or what a function of the index says.

        Raises:
            InvalidRequest: the list has another length, or something cannot be appended.
        """
        if callable(expression):
            written = [expression(index) for index in range(len(self))]
        elif isinstance(expression, Sequence) and not isinstance(expression, str):
            written = list(expression)
            if len(written) != len(self):
                raise InvalidRequest(f"{len(written)} expressions for {len(self)} forks")
        else:
            written = [expression] * len(self)
        for state, item in zip(self._states, written, strict=True):
            state += item
        return self

    def join(self, mode: JoinMode = "gather_variable") -> None:
        """Bring the forks' work back into their parent. Does not wait: the parent's stream does.

        ``gather_variable``: a variable that forks have set and the parent has not becomes a list of the
        parent, in fork order, of the forks that have set it. ``concate_and_append``: what each fork has
        appended since it was forked (or last joined) is appended to the parent, in fork order, with
        generated text keeping its token ids. If a fork has failed, the parent's stream stops here with an
        error that names the fork.

        Raises:
            InvalidRequest: an unknown mode, or a message that one fork has left open.
        """
        if mode == "gather_variable":
            self._gather_variables()
        elif mode == "concate_and_append":
            self._concatenate()
        else:
            raise InvalidRequest(f"mode must be gather_variable or concate_and_append, got {mode!r}")
        self._joined = True

    def _gather_variables(self) -> None:
        sources: dict[str, list[Variable]] = {}
        for state in self._states:
            for name, variable in state._stream.variables.items():
                if name not in self._parent.variables:
                    sources.setdefault(name, []).append(variable)
        variables = {name: Variable() for name in sources}
        self._parent.variables.update(variables)
        self._parent.submit(GatherVariables(self._checkpoints(joins=False), sources, variables))

    def _concatenate(self) -> None:
        for state in self._states:
            if state._stream.role != self._parent.role:
                raise InvalidRequest(
                    f"{state._stream.label} stands in {_place(state._stream)} and its parent in "
                    f"{_place(self._parent)}: end the messages that forks begin before joining them"
                )
        self._parent.submit(Concatenate(self._checkpoints(joins=True)))

    def _checkpoints(self, joins: bool) -> list[Checkpoint]:
        """Marks in the forks' streams at what they have been given so far."""
        checkpoints = [Checkpoint(state._stream, joins) for state in self._states]
        for checkpoint in checkpoints:
            checkpoint.stream.submit(checkpoint)
        return checkpoints

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and not self._joined:
            self.join()


def _place(stream: Stream) -> str:
    return "no message" if stream.role is None else f"the {stream.role} message"
