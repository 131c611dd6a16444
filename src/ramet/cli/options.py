"""Dataclasses as options of a command: one per field, named, typed and explained by the field.

A command takes the dataclass as an argument; `takes_options` shows the command line its fields instead.
Fields that are dataclasses are taken apart likewise. What a field is for stands in its ``help``
(`ramet.config.option`); a field without one is no option.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from ramet.config import flags_of

T = TypeVar("T")


def takes_options(command: Callable[..., T]) -> Callable[..., T]:
    """A command that is called with its dataclass parameters put together from options."""
    hints = get_type_hints(command, include_extras=True)
    shown: list[inspect.Parameter] = []
    composed: dict[str, type[Any]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            composed[name] = hints[name]
            shown += _parameters(hints[name])
        else:
            shown.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))

    @functools.wraps(command)
    def with_options(**given: Any) -> T:
        values = {name: _take(kind, given) for name, kind in composed.items()}
        return command(**values, **given)

    with_options.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return with_options


def _parameters(kind: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _parameters(hints[field.name])
        elif "help" in field.metadata:
            many = isinstance(field.default, tuple)
            default: Any = list(field.default) if isinstance(field.default, tuple) else field.default
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[list[str] if many else hints[field.name], _shown(kind, field)],
            )


def _shown(kind: type[Any], field: Field[Any]) -> Any:
    help_text, metavar = field.metadata["help"], field.metadata.get("metavar")
    has_default = field.default is not None and field.default != ()
    if field.metadata.get("argument"):
        return typer.Argument(metavar=field.name.upper(), help=help_text, show_default=has_default)
    return typer.Option(
        "/".join(flags_of(field)),
        help=help_text,
        metavar=metavar,
        show_default=has_default,
        rich_help_panel=inspect.cleandoc(kind.__doc__ or kind.__name__).splitlines()[0],
    )


def _take(kind: type[Any], given: dict[str, Any]) -> Any:
    """An instance from its options, which are taken out of those given."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            values[field.name] = _take(hints[field.name], given)
        elif field.name in given:
            value = given.pop(field.name)
            values[field.name] = tuple(value) if isinstance(field.default, tuple) else value
    return kind(**values)
