"""Roles to text: the model's own Jinja template, laid out around the parts of a prompt.

The template is rendered with a placeholder as each message's content, so that what it writes (trusted:
special tokens are parsed) stays apart from what the messages hold (not trusted), and generated text keeps
its token ids. Tool definitions, tool calls and other values are given to the template as they are: it looks
into them. Invariants: contents reach the result verbatim and once, unless the template leaves them out; no
value that is given becomes a special token. Knows nothing of token ids.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import jinja2
from jinja2 import nodes

from ramet.errors import InvalidRequest
from ramet.tokenizer.jinja_environment import chat_environment
from ramet.tokenizer.template_values import MARK, json_values, without_marks
from ramet.types import Generated, Prompt, Role, RoleBegin, RoleEnd, TemplateVariables, Text, Tokens

logger = logging.getLogger(__name__)

_PLACEHOLDER = re.compile(f"{MARK}([0-9]+){MARK}")
MAX_MESSAGES_RENDERED = 100_000
"""Over all renderings of one prompt: each text between messages takes one more, of all before it."""

_RESERVED = frozenset({"messages", "add_generation_prompt", "bos_token", "eos_token"})

# What a template may raise besides Jinja's own errors: it runs Python operators on what it is given.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

# For models without a template. A space is put before content that is given as text (see `plain`), so
# that the model may write its own space after "ASSISTANT:", as its tokens want it.
_PLAIN_SOURCE = """\
{%- for message in messages %}{{ message.role | upper }}:{{ message.content }}{{ '\\n' }}{% endfor %}
{%- if add_generation_prompt %}ASSISTANT:{% endif %}"""


@dataclass(frozen=True, slots=True)
class Markup:
    """Text written by a template or by hand around it: special tokens in it are parsed."""

    text: str


Content: TypeAlias = Text | Generated | Tokens
Piece: TypeAlias = Markup | Content
TokenText: TypeAlias = Callable[[Sequence[int]], str]


@dataclass(slots=True)
class _Message:
    role: Role
    fields: dict[str, Any]  # what it has besides role and content
    before: list[Content]  # what stands between the message before and this one
    parts: list[Content] = field(default_factory=list)
    closed: bool = False

    @property
    def calls_tools(self) -> bool:
        """Its content may be absent, and a template may leave it out."""
        return "tool_calls" in self.fields


class ChatTemplate:
    """One model's way to write a conversation.

    Args:
        source: the Jinja template, as found in ``tokenizer.chat_template`` or ``chat_template.jinja``.
        bos_token: the text of BOS, for templates that write it.
        eos_token: the text of EOS.
        space_before_text: put a space before content that begins with given text.
    """

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", space_before_text: bool = False
    ) -> None:
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        self._constants = {"bos_token": bos_token, "eos_token": eos_token}
        self._space_before_text = space_before_text
        self._template: jinja2.Template | None = None  # compiled when first used
        self._warned = False

    @classmethod
    def plain(cls) -> ChatTemplate:
        """The format for models without a template: ``SYSTEM: …``, ``USER: …``, ``ASSISTANT: …`` lines."""
        return cls(_PLAIN_SOURCE, space_before_text=True)

    @cached_property
    def supports_tools(self) -> bool:
        """Whether the template looks at ``tools``; not if it is no valid Jinja."""
        try:
            tree = chat_environment().parse(self.source)
        except jinja2.TemplateSyntaxError:
            return False
        return any(name.name == "tools" and name.ctx == "load" for name in tree.find_all(nodes.Name))

    def pieces(
        self, prompt: Prompt, token_text: TokenText, special_names: re.Pattern[str] | None = None
    ) -> list[Piece]:
        """The prompt as the template writes it.

        The last message may be open. An assistant's is then rendered as a generation prompt, followed by
        what it holds so far; another's is cut right after what it holds. Text outside of messages is put
        where it stands.

        Args:
            prompt: a prompt with messages.
            token_text: shows token ids as text, for templates that want to see contents.
            special_names: matches what must stay text where tools, variables and fields of messages hold it.

        Raises:
            InvalidRequest: the template is broken or refuses a message, a value is no JSON object, or
                too many texts stand between too many messages.
        """
        messages, after = self._messages(prompt, special_names)
        variables = _variables(prompt, special_names)
        if sum(index for index, message in enumerate(messages) if message.before) > MAX_MESSAGES_RENDERED:
            raise InvalidRequest("too many texts stand between messages: put them into the messages")
        # A generation prompt needs something to follow; templates read messages[0].
        generation = not messages[-1].closed and messages[-1].role == "assistant" and len(messages) > 1
        rendered = messages[:-1] if generation else messages
        contents = [
            "" if message.calls_tools and not message.parts else f"{MARK}{index}{MARK}"
            for index, message in enumerate(rendered)
        ]
        text = self._render(rendered, contents, generation, variables)
        spans = [(int(m[1]), m.start(), m.end()) for m in _PLACEHOLDER.finditer(text)]
        found = [index for index, _, _ in spans]
        left_out = {index for index, message in enumerate(rendered) if message.calls_tools} - set(found)
        if sorted([*found, *left_out]) != list(range(len(rendered))):
            contents = [_as_text(message.parts, token_text) for message in rendered]
            text = self._render(rendered, contents, generation, variables)
            spans = _find(text, contents)
            self._warn_once(len(spans), len(rendered))
        if generation:
            spans.append((len(messages) - 1, len(text), len(text)))
        elif not messages[-1].closed and spans and spans[-1][0] == len(messages) - 1:
            text = text[: spans[-1][2]]

        pieces: list[Piece] = []
        end = placed = 0  # up to here, text and messages are laid out
        for index, begin, content_end in spans:
            outside = [part for message in messages[placed : index + 1] for part in message.before]
            cut = end
            if outside and end:
                # The message before ends where a rendering without this one ends.
                closed = self._render(messages[:index], contents, False, variables)
                cut = min(max(_shared_length(closed, text), end), begin)
            pieces += [*_written(text[end:cut]), *map(_as_markup, outside), *_written(text[cut:begin])]
            pieces += messages[index].parts
            end, placed = content_end, max(placed, index + 1)
        left = [part for message in messages[placed:] for part in message.before]
        pieces += [*_written(text[end:]), *map(_as_markup, left + after)]
        return [piece for piece in pieces if not isinstance(piece, Markup) or piece.text]

    def _messages(
        self, prompt: Prompt, special_names: re.Pattern[str] | None
    ) -> tuple[list[_Message], list[Content]]:
        """The messages of a prompt that has some, and what stands after the last."""
        messages: list[_Message] = []
        outside: list[Content] = []
        inside = False
        for part in prompt.parts:
            match part:
                case RoleBegin(role, fields):
                    values = json_values(fields, special_names) if fields else {}
                    messages.append(_Message(role, values, outside))
                    outside, inside = [], True
                case RoleEnd():
                    if inside:
                        messages[-1].closed = True
                    inside = False
                case TemplateVariables():
                    pass
                case _ if inside:
                    messages[-1].parts.append(self._spaced(part) if not messages[-1].parts else part)
                case _:
                    outside.append(part)
        return messages, outside

    def _spaced(self, part: Content) -> Content:
        if self._space_before_text and isinstance(part, Text) and not part.text[:1].isspace():
            return Text(" " + part.text)
        return part

    def _render(
        self,
        messages: Sequence[_Message],
        contents: Sequence[str],
        generation: bool,
        variables: Mapping[str, Any],
    ) -> str:
        try:
            return self._render_once(messages, contents, generation, variables)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidRequest(
                f"the model's chat template is not valid Jinja (line {error.lineno}: {error}); "
                "write the prompt without roles"
            ) from error
        except _TEMPLATE_ERRORS as error:
            index = self._first_refused(messages, contents, variables)
            raise InvalidRequest(
                f"the model's chat template refuses messages[{index}] "
                f"(role {messages[index].role!r}): {error}"
            ) from error

    def _render_once(
        self,
        messages: Sequence[_Message],
        contents: Sequence[str],
        generation: bool,
        variables: Mapping[str, Any],
    ) -> str:
        if self._template is None:
            self._template = chat_environment().from_string(self.source)
        values = [
            {**message.fields, "role": message.role, "content": content}
            for message, content in zip(messages, contents, strict=False)
        ]
        given = {"tools": None, "documents": None, **variables, **self._constants}
        return self._template.render(given, messages=values, add_generation_prompt=generation)

    def _first_refused(
        self, messages: Sequence[_Message], contents: Sequence[str], variables: Mapping[str, Any]
    ) -> int:
        """The first message that cannot be rendered after those before it."""

        def is_refused(count: int) -> bool:
            try:
                self._render_once(messages[:count], contents, False, variables)
            except _TEMPLATE_ERRORS:
                return True
            return False

        # What is refused after some messages is refused whatever follows: there is no need to try them all
        return bisect_left(range(1, len(messages)), True, key=is_refused)

    def _warn_once(self, num_found: int, num_messages: int) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the model's chat template looks into the messages it writes, so it is rendered with their "
                "contents (%d of %d found again); text in the others may be read as special tokens",
                num_found,
                num_messages,
            )


def _variables(prompt: Prompt, special_names: re.Pattern[str] | None) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    for part in prompt.parts:
        if isinstance(part, TemplateVariables):
            variables |= json_values(part.values, special_names)
    if reserved := sorted(_RESERVED & variables.keys()):
        raise InvalidRequest(f"the template variable {reserved[0]!r} is not yours to set")
    return variables


def _written(text: str) -> list[Piece]:
    """What a template wrote: special tokens that it was given are mere text."""
    return [Text(part) if is_given else Markup(part) for part, is_given in without_marks(text)]


def _shared_length(left: str, right: str) -> int:
    """How many letters two texts have in common at their start."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(left), len(right)))


def _as_markup(part: Content) -> Piece:
    return Markup(part.text) if isinstance(part, Text) else part


def _as_text(parts: Sequence[Content], token_text: TokenText) -> str:
    return "".join(token_text(part.token_ids) if isinstance(part, Tokens) else part.text for part in parts)


def _find(text: str, contents: Sequence[str]) -> list[tuple[int, int, int]]:
    """Where contents, perhaps trimmed, stand in a rendering: ``(index, begin, end)``, in order."""
    spans: list[tuple[int, int, int]] = []
    position = 0
    for index, content in enumerate(contents):
        # The last one is looked for from the end: a role's name is often what a short content says.
        search = text.rfind if index == len(contents) - 1 else text.find
        for candidate in (content, content.strip()):
            begin = search(candidate, position)
            if candidate and begin >= 0:
                position = begin + len(candidate)
                spans.append((index, begin, position))
                break
    return spans
