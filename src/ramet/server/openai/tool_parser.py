"""Reading calls of tools out of what a model writes, while it writes.

Text that is no call of a known tool is content, whatever it looks like. Invariant: what is read does not
depend on how the text is cut into pieces. Must not know: requests, responses, tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ramet.server.openai.tool_formats import ToolFormat

T = TypeVar("T")

_HEAD = re.compile(
    r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.){1,200}")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL
)
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Content:
    """Text beside calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A call of a known tool. Its arguments follow, before anything else."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of the last call, as JSON text."""

    text: str


Event: TypeAlias = Content | CallBegins | Arguments
Reading: TypeAlias = Generator[None, None, T]
"""Reads a part of the answer. It yields where it takes more text to go on."""


class ToolCallParser:
    """Reads one answer.

    White space around calls is dropped. A call that is cut short keeps the arguments it has.

    Args:
        form: how the model writes calls.
        names: the tools there are.
        max_calls: what follows this many is dropped.
    """

    def __init__(self, form: ToolFormat, names: Collection[str], *, max_calls: int | None = None) -> None:
        self._form = form
        self._names = names
        self._max_calls = max_calls
        self._num_calls = 0
        self._text = ""  # not read yet
        self._space = ""  # white space that is content only if text follows, or no call
        self._has_ended = False
        self._events: list[Event] = []
        self._reading = self._read()

    def feed(self, text: str) -> list[Event]:
        """What more text brings."""
        self._text += text
        return self._go_on()

    def finish(self) -> list[Event]:
        """What is left when the answer has ended."""
        self._has_ended = True
        return self._go_on()

    def _go_on(self) -> list[Event]:
        next(self._reading, None)
        events, self._events = self._events, []
        return events

    def _read(self) -> Reading[None]:
        if self._form.marker:
            while (yield from self._reaches_marker()):
                yield from self._calls()
        elif (yield from self._begins_with_object()):
            yield from self._calls()
        while not self._has_ended:
            self._say(self._take(len(self._text)))
            yield
        self._say(self._take(len(self._text)))
        if self._space and not self._num_calls:
            self._events.append(Content(self._space))

    def _reaches_marker(self) -> Reading[bool]:
        """Read text up to the next marker; false if the answer ends without one."""
        marker = self._form.marker
        while (begin := self._text.find(marker)) < 0:
            if self._has_ended:
                return False
            self._say(self._take(len(self._text) - _overlap(self._text, marker)))
            yield
        self._say(self._take(begin))
        return True

    def _begins_with_object(self) -> Reading[bool]:
        """Where calls have no marker, they begin the answer, or are no calls."""
        while not (self._text.lstrip(_SPACE) or self._has_ended):
            yield
        return self._text.lstrip(_SPACE).startswith("{")

    def _calls(self) -> Reading[None]:
        """Read a marker and what stands behind it: objects, and an ending."""
        ending, filler = self._form.ending, _SPACE + self._form.filler
        unread = self._take(len(self._form.marker))  # content, unless there is a call
        num_before = self._num_calls
        while True:
            unread += self._take(len(self._text) - len(self._text.lstrip(filler)))
            if self._text.startswith("{"):
                yield from self._object(unread if self._num_calls == num_before else "")
                unread = ""
            elif self._text.startswith(ending) and ending:
                unread += self._take(len(ending))
                break
            elif self._text and not ending.startswith(self._text):
                break
            elif self._has_ended:
                unread += self._take(len(self._text))
                break
            else:
                yield
        if self._num_calls == num_before:
            self._say(unread)

    def _object(self, before: str) -> Reading[None]:
        """Read an object: a call, or content together with what stands before it."""
        braces = _Braces()
        end: int | None = None
        num_seen = 0
        while end is None:
            head = _HEAD.match(self._text)
            name = _string(head[1]) if head is not None else None
            if head is not None and name is not None and name in self._names:
                self._take(head.end())
                yield from self._arguments(name)
                return
            end = braces.end_in(self._text[num_seen:])
            if end is None:
                if self._has_ended:
                    break
                num_seen = len(self._text)
                yield
        text = self._take(len(self._text) if end is None else num_seen + end)
        call = _call(text)
        if call is None or call[0] not in self._names:
            self._say(before + text)
        else:
            self._events += [CallBegins(call[0]), Arguments(call[1])]
            yield from self._count_call()

    def _arguments(self, name: str) -> Reading[None]:
        """Read arguments as they come, and the object to its end."""
        self._events.append(CallBegins(name))
        for braces, is_wanted in ((_Braces(), True), (_Braces(depth=1), False)):
            while (end := braces.end_in(self._text)) is None:
                self._argue(self._take(len(self._text)), is_wanted)
                if self._has_ended:
                    break
                yield
            else:
                self._argue(self._take(end), is_wanted)
        yield from self._count_call()

    def _argue(self, text: str, is_wanted: bool) -> None:
        if text and is_wanted:
            self._events.append(Arguments(text))

    def _count_call(self) -> Reading[None]:
        self._num_calls += 1
        self._space = ""
        while self._num_calls == self._max_calls:  # drop what follows
            self._text = ""
            if self._has_ended:
                break
            yield

    def _take(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        return taken

    def _say(self, text: str) -> None:
        text = self._space + text
        content = text.rstrip(_SPACE)
        self._space = text[len(content) :]
        if content:
            self._events.append(Content(content))


class _Braces:
    """Finds the end of a JSON object or array that is given in pieces."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = self._escaped = False

    def end_in(self, piece: str) -> int | None:
        """Where it ends in the next piece; ``None`` if it goes on."""
        for index, letter in enumerate(piece):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = letter == "\\"
                self._in_string = letter != '"'
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return None


def _overlap(text: str, marker: str) -> int:
    """How many letters at the end of the text may be the beginning of a marker."""
    return next((n for n in range(min(len(marker) - 1, len(text)), 0, -1) if text.endswith(marker[:n])), 0)


def _string(literal: str) -> str | None:
    """The string that a JSON literal stands for."""
    try:
        return str(json.loads(literal))
    except ValueError:
        return None


def _call(text: str) -> tuple[str, str] | None:
    """The name and the arguments of an object that is a call."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = value.get("name") if isinstance(value, dict) else None
    arguments = value.get("arguments", value.get("parameters")) if isinstance(name, str) else None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)
