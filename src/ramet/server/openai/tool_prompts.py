"""Tools for models whose chat template knows none: written into the messages.

Messages stay messages, and what tools and users say stays content, which is never read as special tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ramet.server.openai.tool_formats import ToolFormat
from ramet.types import Part, Prompt, RoleBegin, RoleEnd, Text

_EXAMPLE = {"name": "the_name", "arguments": {"an_argument": "its value"}}
_RESULT_END = RoleEnd("tool")


def with_tools_written_out(prompt: Prompt, tools: Sequence[Mapping[str, Any]], form: ToolFormat) -> Prompt:
    """A conversation in which the tools, their calls and their results are text.

    The tools stand in the system's message, which is made if there is none; results are the user's.
    """
    parts: list[Part] = []
    calls: list[Mapping[str, Any]] = []
    after_result = False
    for part in prompt.parts:
        match part:
            case RoleBegin("tool"):
                if after_result:  # several results are one message
                    parts[-1] = Text("\n<tool_response>\n")
                else:
                    parts += [RoleBegin("user"), Text("<tool_response>\n")]
            case RoleEnd("tool"):
                parts += [Text("\n</tool_response>"), RoleEnd("user")]
            case RoleBegin("assistant", fields) if fields:
                values = json.loads(fields)
                calls = [call["function"] for call in values.pop("tool_calls", ())]
                parts.append(RoleBegin("assistant", json.dumps(values) if values else ""))
            case RoleEnd("assistant") if calls:
                is_first = isinstance(parts[-1], RoleBegin)
                parts += [Text(("" if is_first else "\n") + form.written(calls)), part]
                calls = []
            case _:
                parts.append(part)
        after_result = part == _RESULT_END
    return Prompt(tuple(_with_instructions(parts, _instructions(tools, form)) if tools else parts))


def _with_instructions(parts: list[Part], text: str) -> list[Part]:
    for index, part in enumerate(parts):
        if part == RoleEnd("system"):
            return [*parts[:index], Text("\n\n" + text), *parts[index:]]
        if isinstance(part, RoleBegin) and part.role != "system":
            return [*parts[:index], RoleBegin("system"), Text(text), RoleEnd("system"), *parts[index:]]
    return parts


def _instructions(tools: Sequence[Mapping[str, Any]], form: ToolFormat) -> str:
    described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        "You can call these functions. Each line describes one, with a JSON schema of its arguments:\n"
        f"<tools>\n{described}\n</tools>\n"
        "To call a function, answer with its name and its arguments in this form:\n"
        f"{form.written([_EXAMPLE])}\n"
        "What it returns stands in the next message; then answer in words, as when no function is needed."
    )
