"""Which of the arguments of ``run`` belong to the user's function and which are sampling defaults.

Invariant: every argument goes to exactly one place, and one that has none is refused by name. A name that
is a parameter of the function goes to the function, even if it also names a sampling parameter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

from ramet.errors import InvalidRequest
from ramet.lang.api import PUBLISHED_SPELLINGS
from ramet.sampling_params import SAMPLING_FIELDS, unknown_parameter

RESERVED = frozenset({"backend", "stream"})


class Parameters:
    """The parameters of a program's function after ``s``, some of them bound already."""

    def __init__(self, function: Callable[..., Any], bound: Mapping[str, Any] | None = None) -> None:
        self.program = function.__name__
        self.bound = dict(bound or {})
        everything = list(inspect.signature(function).parameters.values())
        positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        if not everything or everything[0].name != "s" or everything[0].kind not in positional:
            raise InvalidRequest(
                f"the first parameter of program {self.program!r} must be named s: it receives the state"
            )
        for parameter in everything[1:]:
            if parameter.name in RESERVED:
                raise InvalidRequest(
                    f"program {self.program!r} cannot have a parameter named {parameter.name}: run() takes it"
                )
        self._signature = inspect.Signature(everything[1:])
        # positional arguments fill what is not bound
        self._open = inspect.Signature([p for p in everything[1:] if p.name not in self.bound])

    def bind(self, function: Callable[..., Any], values: Mapping[str, Any]) -> Parameters:
        """With more of them bound.

        Raises:
            InvalidRequest: one is not a parameter, or is bound already.
        """
        for name in values:
            if name in self.bound:
                raise InvalidRequest(f"argument {name!r} of program {self.program!r} is bound already")
            if not self._accepts(name):
                raise InvalidRequest(
                    f"program {self.program!r} has no parameter {name!r} to bind (it has: {self._names()})"
                )
        return Parameters(function, {**self.bound, **values})

    def split(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[inspect.BoundArguments, dict[str, Any]]:
        """The arguments for the function, and the sampling parameters.

        Raises:
            InvalidRequest: an argument is missing, unknown, bound already or given twice.
        """
        mine: dict[str, Any] = {}
        sampling: dict[str, Any] = {}
        for name, value in kwargs.items():
            if name in self.bound:
                raise InvalidRequest(f"argument {name!r} of program {self.program!r} is bound already")
            if name in self._open.parameters and self._accepts(name):
                mine[name] = value
            elif name in SAMPLING_FIELDS or name in PUBLISHED_SPELLINGS:
                sampling[name] = value
            elif self._accepts(name):
                mine[name] = value
            else:
                raise InvalidRequest(
                    f"program {self.program!r} got an unknown argument {name!r}: its parameters are "
                    f"{self._names()}; as a sampling parameter, {unknown_parameter(name)}"
                )
        return self._bound_arguments(args, mine), sampling

    def item(self, index: int, value: object) -> inspect.BoundArguments:
        """One item of a batch: a dict of arguments, or a tuple or list of positional ones.

        Raises:
            InvalidRequest: anything else, or what `split` refuses; the message names the item.
        """
        if isinstance(value, Mapping):
            args, kwargs = (), dict(value)
        elif isinstance(value, (tuple, list)):
            args, kwargs = tuple(value), {}
        else:
            raise InvalidRequest(
                f"item {index} of run_batch must be a dict or a tuple of arguments, "
                f"got {type(value).__name__}"
            )
        try:
            arguments, sampling = self.split(args, kwargs)
        except InvalidRequest as error:
            raise InvalidRequest(f"item {index} of run_batch: {error}") from error
        if sampling:
            raise InvalidRequest(
                f"item {index} of run_batch: program {self.program!r} takes no argument "
                f"{next(iter(sampling))!r}; sampling parameters go to run_batch itself"
            )
        return arguments

    def _bound_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        try:
            given = self._open.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidRequest(
                f"program {self.program!r}: {error} (its parameters: {self._names()})"
            ) from error
        complete = self._signature.bind_partial()
        for name, parameter in self._signature.parameters.items():
            if name in self.bound:
                complete.arguments[name] = self.bound[name]
            elif name in given:
                complete.arguments[name] = given[name]
            elif parameter.default is not Parameter.empty:
                complete.arguments[name] = parameter.default
            elif parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                raise InvalidRequest(f"program {self.program!r} needs the argument {name!r}")
        return complete

    def _accepts(self, name: str) -> bool:
        """Whether the function takes this as a keyword."""
        parameter = self._signature.parameters.get(name)
        if parameter is not None and parameter.kind in (
            Parameter.POSITIONAL_OR_KEYWORD,
            Parameter.KEYWORD_ONLY,
        ):
            return True
        kinds = {parameter.kind for parameter in self._signature.parameters.values()}
        return Parameter.VAR_KEYWORD in kinds and name != "s"

    def _names(self) -> str:
        return ", ".join(self._signature.parameters) or "none"
