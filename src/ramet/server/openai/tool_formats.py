"""How models write calls of tools: the formats that chat templates teach.

A format says what stands around calls; each call is a JSON object of a name and arguments. From it follow the
grammar that calls are held to and, in `tool_parser`, how they are read. Must not know: requests, responses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.constraints import Cfg

MAX_CALLS = 16
"""In one answer, where a grammar says how calls are written: small models would not stop by themselves."""

MARK_SEPARATOR = "\n"
"""Between calls that have markers of their own."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way to write calls.

    Attributes:
        marker: what tells calls from text; "" if calls begin the answer, as a JSON object.
        before, between, after: what stands around the calls behind a marker, and between them.
        filler: letters that may stand between objects, besides white space.
        ending: what closes a marker, and is no filler.
        arguments: the key of the arguments.
        repeats: each call has a marker of its own.
        takes_many: an answer may hold more than one call.
        short_ids: its templates want ids of nine letters and digits.
    """

    marker: str
    before: str
    between: str
    after: str
    filler: str = ""
    ending: str = ""
    arguments: str = "arguments"
    repeats: bool = False
    takes_many: bool = True
    short_ids: bool = False

    def written(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Calls as the model would have written them. Each is a mapping of ``name`` and ``arguments``."""
        texts = [
            json.dumps({"name": call["name"], self.arguments: call["arguments"]}, ensure_ascii=False)
            for call in calls
        ]
        if self.repeats:
            return MARK_SEPARATOR.join(f"{self.marker}{self.before}{text}{self.after}" for text in texts)
        return f"{self.marker}{self.before}{self.between.join(texts)}{self.after}"


HERMES = ToolFormat("<tool_call>", "\n", "", "\n</tool_call>", ending="</tool_call>", repeats=True)
MISTRAL = ToolFormat("[TOOL_CALLS]", "[", ", ", "]", filler="[],", short_ids=True)
LLAMA = ToolFormat("", "", "", "", filler=";", arguments="parameters", takes_many=False)

_LLAMA_TEACHES = re.compile(r'"name": *[^"{}]{0,40}, *"parameters": *[^"{}]')


def taught_format(template: str) -> ToolFormat | None:
    """The format that a chat template teaches, by its source; ``None`` if it is none of ours."""
    if "[TOOL_CALLS]" in template and "[ARGS]" not in template:
        return MISTRAL
    if "<tool_call>" in template and not any(mark in template for mark in ("<function=", "<arg_key>")):
        return HERMES
    if _LLAMA_TEACHES.search(template.replace('\\"', '"')):
        return LLAMA
    return None


def calls_grammar(
    tools: Mapping[str, Mapping[str, Any]],
    form: ToolFormat,
    *,
    may_talk: bool,
    content: str | None = None,
    max_calls: int = MAX_CALLS,
    marker_given: bool = False,
) -> Cfg:
    """A grammar of answers whose calls are of these tools, with valid arguments.

    Args:
        tools: the schema of each tool's arguments, by its name.
        form: how calls are written.
        may_talk: text may stand before calls, or instead of them.
        content: the schema, as JSON text, of an answer without calls; then no text stands beside calls.
        max_calls: most calls in an answer.
        marker_given: the marker stands in the prompt already.
    """
    marker = "" if marker_given else form.marker
    more = (max_calls if form.takes_many else 1) - 1
    times = f"{{0,{more}}}"
    one = f"{_quoted(form.before)} call {_quoted(form.after)}"
    if more == 0:
        several = one
    elif form.repeats:
        several = f"{one} ({_quoted(MARK_SEPARATOR + marker)} {one}){times}"
    else:
        again = f"({_quoted(form.between)} call){times}"
        several = f"{_quoted(form.before)} call {again} {_quoted(form.after)}"
    marked = f"{_quoted(marker)} calls" if marker else "calls"
    if content is not None:
        start = [f"start: {marked} | content", f"content: %json {content}"]
    elif not may_talk:
        start = [f"start: {marked}"]
    elif not marker:
        start = ["start: calls | TALK", r"TALK: /(?s:([^{\s].*)?)/"]
    else:  # text up to the first marker, and nothing after the calls
        start = [
            "start: TALK | UP_TO_CALLS calls",
            f"UP_TO_CALLS: TALK {_quoted(marker)}",
            f"TALK: /(?s:.*)/ & ~/(?s:.*){re.escape(marker)}(?s:.*)/",
        ]
    calls = [f"{_quoted(_head(name, form))} args_{index} {_quoted('}')}" for index, name in enumerate(tools)]
    arguments = [f"args_{index}: %json {json.dumps(schema)}" for index, schema in enumerate(tools.values())]
    return Cfg("\n".join([*start, f"calls: {several}", f"call: {' | '.join(calls)}", *arguments]))


def _head(name: str, form: ToolFormat) -> str:
    return f'{{"name": {json.dumps(name)}, "{form.arguments}": '


def _quoted(text: str) -> str:
    return json.dumps(text)
