"""Answers of models that may call tools: to content and calls, at once or as they come.

Must not know: requests, how calls are asked for.
"""

from __future__ import annotations

import json
import secrets
import string
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from ramet.server.openai.responses import Delta, FunctionCall, FunctionCallDelta, ToolCall, ToolCallDelta
from ramet.server.openai.tool_formats import ToolFormat
from ramet.server.openai.tool_parser import Arguments, CallBegins, Content, Event, ToolCallParser
from ramet.tokenizer.detokenizer import Detokenizer
from ramet.tokenizer.vocab import Vocab
from ramet.types import Completion

_ID_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class MarkerToken:
    """A special token that tells calls from text."""

    token_id: int
    text: str
    vocab: Vocab

    @classmethod
    def find(cls, text: str, vocab: Vocab) -> Self | None:
        """The token of this name, if it is special: then texts do not show it."""
        for token_id in vocab.special_ids:
            if text and vocab.text(token_id) == text:
                return cls(token_id, text, vocab)
        return None


class AnswerReader:
    """Reads one answer.

    Args:
        form: how the model writes calls.
        names: the tools there are.
        max_calls: what follows this many is dropped.
        marker: if it is a special token.
        in_calls: the marker stands in the prompt already.
    """

    def __init__(
        self,
        form: ToolFormat,
        names: Collection[str],
        max_calls: int,
        marker: MarkerToken | None,
        *,
        in_calls: bool,
    ) -> None:
        self._parser = ToolCallParser(form, names, max_calls=max_calls)
        self._restorer = None if marker is None else _MarkerRestorer(marker)
        self._short_ids = form.short_ids
        self.num_calls = 0
        if in_calls:
            self._parser.feed(form.marker)

    def delta(self, text: str, token_ids: Sequence[int], *, is_last: bool) -> Delta:
        """What more of the answer adds to a stream."""
        content = ""
        calls: list[ToolCallDelta] = []
        for event in self._events(text, token_ids, is_last=is_last):
            match event:
                case Content(piece):
                    content += piece
                case CallBegins(name):
                    index, self.num_calls = self.num_calls, self.num_calls + 1
                    function: FunctionCallDelta = {"name": name, "arguments": ""}
                    calls.append(
                        {"index": index, "id": self._new_id(), "type": "function", "function": function}
                    )
                case Arguments(piece):
                    if not calls:
                        calls.append({"index": self.num_calls - 1, "function": {"arguments": ""}})
                    calls[-1]["function"]["arguments"] += piece
        delta: Delta = {}
        if content:
            delta["content"] = content
        if calls:
            delta["tool_calls"] = calls
        return delta

    def read(self, completion: Completion) -> tuple[str | None, list[ToolCall]]:
        """The content and the calls of a whole answer. If arguments are no object, all is content."""
        content = ""
        calls: list[ToolCall] = []
        for event in self._events(completion.text, completion.token_ids, is_last=True):
            match event:
                case Content(piece):
                    content += piece
                case CallBegins(name):
                    function: FunctionCall = {"name": name, "arguments": ""}
                    calls.append({"id": self._new_id(), "type": "function", "function": function})
                case Arguments(piece):
                    calls[-1]["function"]["arguments"] += piece
        if not all(_is_object(call["function"]["arguments"]) for call in calls):
            return completion.text, []
        self.num_calls = len(calls)
        return content or (None if calls else ""), calls

    def _events(self, text: str, token_ids: Sequence[int], *, is_last: bool) -> list[Event]:
        if self._restorer is not None:
            text = self._restorer.restored(text, token_ids)
        events = self._parser.feed(text)
        return events + self._parser.finish() if is_last else events

    def _new_id(self) -> str:
        if self._short_ids:
            return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"


class _MarkerRestorer:
    """Writes a special token into the text where it stands among the tokens."""

    def __init__(self, marker: MarkerToken) -> None:
        self._marker = marker
        self._detokenizer = Detokenizer(marker.vocab)
        self._num_decoded = 0
        self._num_given = 0
        self._places: deque[int] = deque()  # in the text, not given out yet

    def restored(self, text: str, token_ids: Sequence[int]) -> str:
        """More of the text, which may lag behind the tokens."""
        for token_id in token_ids:
            if token_id == self._marker.token_id:
                self._places.append(self._num_decoded)
            self._num_decoded += len(self._detokenizer.append(token_id))
        restored = ""
        end = self._num_given + len(text)
        while self._places and self._places[0] <= end:
            cut = max(self._places.popleft() - self._num_given, 0)
            restored += text[:cut] + self._marker.text
            self._num_given += cut
            text = text[cut:]
        self._num_given = end
        return restored + text


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
