"""Roles to text: the model's own Jinja template, laid out around the parts of a prompt.

The template is rendered with a placeholder as each message's content, so that what it writes (trusted:
special tokens are parsed) stays apart from what the messages hold (not trusted), and generated text keeps
its token ids. Invariant: contents reach the result verbatim and once. Knows nothing of token ids.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import jinja2

from ramet.errors import InvalidRequest
from ramet.tokenizer.jinja_environment import chat_environment
from ramet.types import Generated, Prompt, Role, RoleBegin, RoleEnd, Text, Tokens

logger = logging.getLogger(__name__)

_MARK = "\uf8ff"  # a private-use letter that no template writes
_PLACEHOLDER = re.compile(f"{_MARK}([0-9]+){_MARK}")

# What a template may raise besides Jinja's own errors: it runs Python operators on what it is given.
_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)

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
    before: list[Content]  # what stands between the message before and this one
    parts: list[Content] = field(default_factory=list)
    closed: bool = False


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
        self._variables = {"bos_token": bos_token, "eos_token": eos_token, "tools": None, "documents": None}
        self._space_before_text = space_before_text
        self._template: jinja2.Template | None = None  # compiled when first used
        self._warned = False

    @classmethod
    def plain(cls) -> ChatTemplate:
        """The format for models without a template: ``SYSTEM: …``, ``USER: …``, ``ASSISTANT: …`` lines."""
        return cls(_PLAIN_SOURCE, space_before_text=True)

    def pieces(self, prompt: Prompt, token_text: TokenText) -> list[Piece]:
        """The prompt as the template writes it.

        The last message may be open. An assistant's is then rendered as a generation prompt, followed by
        what it holds so far; another's is cut right after what it holds. Text outside of messages is put
        where it stands. ``token_text`` shows token ids as text, for templates that want to see contents.

        Raises:
            InvalidRequest: the template is broken or refuses a message.
        """
        messages, after = self._messages(prompt)
        # A generation prompt needs something to follow; templates read messages[0].
        generation = not messages[-1].closed and messages[-1].role == "assistant" and len(messages) > 1
        rendered = messages[:-1] if generation else messages
        contents = [f"{_MARK}{index}{_MARK}" for index in range(len(rendered))]
        text = self._render(rendered, contents, generation)
        spans = [(int(m[1]), m.start(), m.end()) for m in _PLACEHOLDER.finditer(text)]
        if sorted(index for index, _, _ in spans) != list(range(len(rendered))):
            contents = [_as_text(message.parts, token_text) for message in rendered]
            text = self._render(rendered, contents, generation)
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
                closed = self._render(messages[:index], contents, generation=False)
                cut = min(max(_shared_length(closed, text), end), begin)
            pieces += [Markup(text[end:cut]), *map(_as_markup, outside), Markup(text[cut:begin])]
            pieces += messages[index].parts
            end, placed = content_end, max(placed, index + 1)
        left = [part for message in messages[placed:] for part in message.before]
        pieces += [Markup(text[end:]), *map(_as_markup, left + after)]
        return [piece for piece in pieces if not isinstance(piece, Markup) or piece.text]

    def _messages(self, prompt: Prompt) -> tuple[list[_Message], list[Content]]:
        """The messages of a prompt that has some, and what stands after the last."""
        messages: list[_Message] = []
        outside: list[Content] = []
        inside = False
        for part in prompt.parts:
            match part:
                case RoleBegin(role):
                    messages.append(_Message(role, outside))
                    outside, inside = [], True
                case RoleEnd():
                    if inside:
                        messages[-1].closed = True
                    inside = False
                case _ if inside:
                    messages[-1].parts.append(self._spaced(part) if not messages[-1].parts else part)
                case _:
                    outside.append(part)
        return messages, outside

    def _spaced(self, part: Content) -> Content:
        if self._space_before_text and isinstance(part, Text) and not part.text[:1].isspace():
            return Text(" " + part.text)
        return part

    def _render(self, messages: Sequence[_Message], contents: Sequence[str], generation: bool) -> str:
        try:
            return self._render_once(messages, contents, generation)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidRequest(
                f"the model's chat template is not valid Jinja (line {error.lineno}: {error}); "
                "write the prompt without roles"
            ) from error
        except _TEMPLATE_ERRORS as error:
            index = self._first_refused(messages, contents)
            raise InvalidRequest(
                f"the model's chat template refuses messages[{index}] "
                f"(role {messages[index].role!r}): {error}"
            ) from error

    def _render_once(self, messages: Sequence[_Message], contents: Sequence[str], generation: bool) -> str:
        if self._template is None:
            self._template = chat_environment().from_string(self.source)
        values = [
            {"role": message.role, "content": content}
            for message, content in zip(messages, contents, strict=False)
        ]
        return self._template.render(messages=values, add_generation_prompt=generation, **self._variables)

    def _first_refused(self, messages: Sequence[_Message], contents: Sequence[str]) -> int:
        """The first message that cannot be rendered after those before it."""
        for count in range(1, len(messages)):
            try:
                self._render_once(messages[:count], contents, False)
            except _TEMPLATE_ERRORS:
                return count - 1
        return len(messages) - 1

    def _warn_once(self, num_found: int, num_messages: int) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the model's chat template looks into the messages it writes, so it is rendered with their "
                "contents (%d of %d found again); text in the others may be read as special tokens",
                num_found,
                num_messages,
            )


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
