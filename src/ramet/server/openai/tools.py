"""What a chat says about tools, for one model: its prompt, its constraint, and how its answers are read.

If the model's chat template teaches a format that we know, tools and earlier calls are given to the template.
Otherwise they are written into the messages, in the format of Hermes. Must not know: HTTP, sampling.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from ramet.constraints import Constraint, JsonSchema
from ramet.errors import InvalidRequest, UnsupportedFeature
from ramet.server.bodies import no_collections
from ramet.server.openai.sampling import ANY_OBJECT
from ramet.server.openai.schemas import ChatBody, NamedTool, Tool
from ramet.server.openai.tool_answers import AnswerReader, MarkerToken
from ramet.server.openai.tool_formats import HERMES, MAX_CALLS, calls_grammar, taught_format
from ramet.server.openai.tool_prompts import with_tools_written_out
from ramet.tokenizer.tokenizer import Tokenizer
from ramet.types import Prompt, Tokens

ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedTool


class ToolUse:
    """The tools of one chat.

    Attributes:
        is_offered: the model may call some; otherwise its answers are text, whatever they look like.

    Raises:
        InvalidRequest: two tools of one name, or a choice that the tools do not allow.
    """

    def __init__(self, body: ChatBody, tokenizer: Tokenizer) -> None:
        choice = _checked_choice(body)
        template = tokenizer.chat_template
        taught = taught_format(template.source) if template is not None and template.supports_tools else None
        self._body = body
        self._form = taught or HERMES
        self._in_template = taught is not None
        self._tools = [] if choice == "none" else list(body.tools or ())
        self.is_offered = bool(self._tools)
        self._must_call = choice not in ("none", "auto")
        self._callable = [
            tool
            for tool in self._tools
            if not isinstance(choice, NamedTool) or tool.function.name == choice.function.name
        ]
        # What tells calls from text may be a special token, which is no part of texts.
        self._marker = MarkerToken.find(self._form.marker, tokenizer.vocab) if self.is_offered else None
        is_single = body.parallel_tool_calls is False or isinstance(choice, NamedTool)
        if self._must_call and self._marker is not None and self._form.repeats:
            is_single = True  # the marker of a second one could not be asked for
        self._max_calls = 1 if is_single else MAX_CALLS

    @no_collections()
    def prompt(self) -> Prompt:
        """The conversation, with the tools in it.

        Raises:
            InvalidRequest: a message is wrong.
        """
        body = self._body
        tools = [tool.model_dump(exclude_unset=True) for tool in self._tools]
        prompt = Prompt.from_messages(
            body.messages,
            tools=tools if self._in_template else None,
            template_variables=body.chat_template_kwargs,
        )
        if not self._in_template:
            prompt = with_tools_written_out(prompt, tools, self._form)
        if body.continue_final_message:  # without the end of the last message, and the turn that would follow
            return Prompt(prompt.parts[:-2])
        if body.add_generation_prompt is False:
            return Prompt(prompt.parts[:-1])
        if self._must_call and self._marker is not None:
            return prompt.append(Tokens((self._marker.token_id,)))
        return prompt

    def constraint(self, given: Constraint | None) -> Constraint | None:
        """What the text must be, if ``given`` is what an answer without calls must be.

        Raises:
            UnsupportedFeature: tools and what is given cannot be had together.
        """
        if not self.is_offered:
            return given
        strict = any(tool.function.strict for tool in self._callable)
        is_free = given is None and not strict
        # No grammar of texts has a marker that is no text: strict tools are then taken at the model's word.
        is_beyond = given is None and self._marker is not None
        if not self._must_call and (is_free or is_beyond):
            return None
        return calls_grammar(
            {
                tool.function.name: _arguments_schema(tool)
                if self._must_call or tool.function.strict
                else {"type": "object"}
                for tool in self._callable
            },
            self._form,
            may_talk=not self._must_call,
            content=None if self._must_call or given is None else self._content_schema(given),
            max_calls=self._max_calls,
            marker_given=self._marker is not None,
        )

    def reader(self) -> AnswerReader | None:
        """What reads one answer; ``None`` if its text is its content."""
        if not self.is_offered:
            return None
        names = {tool.function.name for tool in self._tools}
        return AnswerReader(
            self._form,
            names,
            self._max_calls,
            self._marker,
            in_calls=self._must_call and self._marker is not None,
        )

    def _content_schema(self, given: Constraint) -> str:
        if self._marker is not None:
            raise UnsupportedFeature(
                "this model's tool calls begin with a special token: a constraint and tools cannot be had "
                "together, unless tool_choice is required or none"
            )
        if given == ANY_OBJECT:
            return '{"type": "object"}'
        if isinstance(given, JsonSchema) and given.whitespace is None:
            return given.schema
        raise UnsupportedFeature("of the constraints, only a JSON schema can be had together with tools")


def _checked_choice(body: ChatBody) -> ToolChoice:
    names = [tool.function.name for tool in body.tools or ()]
    if len(set(names)) < len(names):
        raise InvalidRequest("tools: two functions have the same name")
    choice = body.tool_choice or ("auto" if names else "none")
    if choice in ("none", "auto"):
        return choice
    if not names:
        raise InvalidRequest("tool_choice asks for a call, but there are no tools")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise InvalidRequest(f"tool_choice: there is no tool {choice.function.name!r}")
    if body.continue_final_message or body.add_generation_prompt is False:
        raise InvalidRequest("tool_choice: a call must be asked for at the beginning of an answer")
    return choice


def _arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object."""
    given = tool.function.parameters
    if given is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if given.keys().isdisjoint(("type", "$ref", "anyOf", "oneOf", "allOf")):
        return {"type": "object", **given}
    return given
