"""Chats as OpenAI has them, as prompts."""

from __future__ import annotations

import json

import pytest

from ramet.errors import InvalidRequest, UnsupportedFeature
from ramet.types import Prompt, RoleBegin, RoleEnd, TemplateVariables, Text


def parts_of(*messages, **options):
    return Prompt.from_messages(messages, **options).parts[:-1]


def call(arguments, **more):
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}, **more}


def test_the_assistant_is_to_answer():
    prompt = Prompt.from_messages([{"role": "user", "content": "Hi"}])
    assert prompt.parts == (RoleBegin("user"), Text("Hi"), RoleEnd("user"), RoleBegin("assistant"))
    assert prompt.open_role == "assistant"


def test_a_developer_is_the_system():
    assert parts_of({"role": "developer", "content": ""}) == (
        RoleBegin("system"),
        Text(""),
        RoleEnd("system"),
    )


def test_text_parts_are_one_text():
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parts_of({"role": "user", "content": content})[1] == Text("ab")


def test_fields_go_along_and_what_is_absent_or_unknown_does_not():
    message = {
        "role": "tool",
        "content": "4",
        "name": "é",
        "tool_call_id": "c1",
        "refusal": None,
        "audio": {},
    }
    begin, _, end = parts_of(message)
    assert begin == RoleBegin("tool", '{"name":"é","tool_call_id":"c1"}')
    assert end == RoleEnd("tool")


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ("{half", "{half"),
        ("[1]", "[1]"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_arguments_of_calls_are_objects_if_they_can_be(written, arguments):
    begin, end = parts_of({"role": "assistant", "content": None, "tool_calls": [call(written)]})
    assert json.loads(begin.fields)["tool_calls"] == [call(arguments)]
    assert end == RoleEnd("assistant")


def test_tools_and_variables_are_values_of_a_prompt_that_can_be_compared():
    def prompt():
        tools, variables = [{"b": 1, "a": 2}], {"enable_thinking": False}
        return Prompt.from_messages(
            [{"role": "user", "content": "x"}], tools=tools, template_variables=variables
        )

    assert prompt().parts[0] == TemplateVariables('{"enable_thinking":false,"tools":[{"b":1,"a":2}]}')
    assert hash(prompt()) == hash(prompt())
    assert Prompt.from_messages([{"role": "user", "content": "x"}], tools=[]).parts[0] == RoleBegin("user")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"content": "x"}, r"messages\[0\].role must be system, user, assistant or tool, got None"),
        ({"role": "function", "content": "x"}, "got 'function'"),
        ({"role": "user"}, r"messages\[0\].content must be a string or a list of text parts"),
        ({"role": "user", "content": 7}, "content must be a string"),
        ({"role": "user", "content": ["x"]}, r"content\[0\] must be"),
        ({"role": "user", "content": [{"type": "text"}]}, r"content\[0\] must be"),
        ({"role": "user", "content": "x", "name": 3}, "name must be a string"),
        ({"role": "user", "content": "x", "tool_calls": [call("")]}, "in a message of the assistant"),
        ({"role": "assistant", "tool_calls": "f()"}, "tool_calls must be a list"),
        ({"role": "assistant", "tool_calls": ["f()"]}, r"tool_calls\[0\].function must be an object"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "function.name must be a string"),
        ({"role": "assistant", "tool_calls": [call({"a": b""})]}, r"messages\[0\]: not JSON"),
    ],
)
def test_messages_that_are_none_are_refused(message, error):
    with pytest.raises(InvalidRequest, match=error):
        parts_of(message)


def test_content_that_is_no_text_is_not_supported_yet():
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(UnsupportedFeature, match=r"messages\[0\].content\[0\]: 'image_url'"):
        parts_of({"role": "user", "content": [image]})


def test_no_messages_and_tools_that_are_no_json():
    with pytest.raises(InvalidRequest, match="must not be empty"):
        Prompt.from_messages([])
    with pytest.raises(InvalidRequest, match="not JSON"):
        parts_of({"role": "user", "content": "x"}, tools=[{"f": object()}])
