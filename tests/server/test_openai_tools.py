"""Tools in chats: what the model is shown, what it may write, what the client gets."""

import json

import pytest
from asking import asking
from pieces import random_backend
from reciting import HERMES, LLAMA, MISTRAL, PLAIN, TURN, reciting

from ramet import InvalidRequest
from ramet.server.openai import tool_formats
from ramet.server.openai.schemas import ChatBody
from ramet.server.openai.tools import ToolUse

HELLO = [{"role": "user", "content": "Hello?"}]
CITIES = ["Rome", "Paris"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": CITIES}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
STOP = {"type": "function", "function": {"name": "stop"}}
TOOLS = [WEATHER, STOP]
CALL = {"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}
FORMS = [
    (PLAIN, tool_formats.HERMES),
    (HERMES, tool_formats.HERMES),
    (MISTRAL, tool_formats.MISTRAL),
    (LLAMA, tool_formats.LLAMA),
]


def message_of(response):
    """The choice's finish reason, its content, and its calls as ``(name, arguments)``."""
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    calls = choice["message"].get("tool_calls", [])
    assert all(call["type"] == "function" for call in calls)
    found = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]
    return choice["finish_reason"], choice["message"]["content"], found


def streamed(response):
    """The same of a stream."""
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    content, calls, reason = "", {}, None
    for event in map(json.loads, lines[:-1]):
        for choice in event["choices"]:
            content += choice["delta"].get("content", "")
            for delta in choice["delta"].get("tool_calls", []):
                if "id" in delta:
                    assert delta["index"] == len(calls)
                    calls[delta["index"]] = [delta["function"]["name"], ""]
                calls[delta["index"]][1] += delta["function"]["arguments"]
            reason = choice["finish_reason"] or reason
    return reason, content or None, [(name, json.loads(text)) for name, text in calls.values()]


@pytest.mark.parametrize("read", [message_of, streamed])
@pytest.mark.parametrize(("template", "form"), FORMS)
def test_calls_that_a_model_chooses_to_write(template, form, read):
    reply = form.written([CALL, {"name": "stop", "arguments": {}}] if form.takes_many else [CALL])
    with asking(reciting(reply, template=template)) as ask:
        body = {"messages": HELLO, "tools": TOOLS, "stream": read is streamed}
        reason, content, calls = read(ask("/v1/chat/completions", body))
    assert (reason, content) == ("tool_calls", None)
    assert calls == [("get_weather", {"city": "Rome", "days": 2}), ("stop", {})][: len(calls)]
    assert len(calls) == 1 + form.takes_many


@pytest.mark.parametrize("read", [message_of, streamed])
@pytest.mark.parametrize(("template", "form"), FORMS[:3])
def test_text_before_a_call_is_content(template, form, read):
    with asking(reciting("I will look.\n" + form.written([CALL]), template=template)) as ask:
        body = {"messages": HELLO, "tools": TOOLS, "stream": read is streamed}
        reason, content, calls = read(ask("/v1/chat/completions", body))
    assert (reason, content, len(calls)) == ("tool_calls", "I will look.", 1)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("read", [message_of, streamed])
@pytest.mark.parametrize(("template", "form"), FORMS)
def test_calls_that_are_asked_for(template, form, read, choice):
    """The model would rather talk: what it writes is bent into a call."""
    with asking(reciting("Never!", template=template)) as ask:
        body = {"messages": HELLO, "tools": TOOLS, "tool_choice": choice, "max_tokens": 400}
        body |= {"stream": read is streamed, "parallel_tool_calls": False}
        reason, content, [(name, arguments)] = read(ask("/v1/chat/completions", body))
    assert (reason, content) == ("tool_calls", None)
    if choice != "required":
        assert name == "get_weather"
    if name == "get_weather":
        assert arguments["city"] in CITIES and 1 <= arguments["days"] <= 9
    else:
        assert (name, arguments) == ("stop", {})


@pytest.mark.parametrize("seed", range(3))
def test_required_calls_always_validate(seed):
    with asking(random_backend(salt=seed)) as ask:
        body = {
            "messages": HELLO,
            "tools": TOOLS,
            "tool_choice": "required",
            "max_tokens": 3000,
            "seed": seed,
        }
        reason, content, calls = message_of(ask("/v1/chat/completions", body))
    assert (reason, content) == ("tool_calls", None) and calls
    for name, arguments in calls:
        assert name in ("get_weather", "stop")
        assert arguments == {} or (arguments["city"] in CITIES and 1 <= arguments["days"] <= 9)


def test_required_calls_may_be_recursive():
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    tree |= {"required": ["children"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "plant", "parameters": tree}}
    with asking(random_backend(salt=5)) as ask:
        body = {"messages": HELLO, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
        _, _, [(name, arguments)] = message_of(ask("/v1/chat/completions", {**body, "max_tokens": 3000}))

    def is_tree(value):
        return value.keys() == {"children"} and all(map(is_tree, value["children"]))

    assert name == "plant" and is_tree(arguments)


@pytest.mark.parametrize(("template", "form"), [FORMS[0], FORMS[3]])
def test_strict_tools_are_held_to_their_schema_when_the_model_chooses(template, form):
    wrong = form.written([{"name": "get_weather", "arguments": {"town": "Oslo"}}])
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    with asking(reciting(wrong, template=template)) as ask:
        body = {"messages": HELLO, "max_tokens": 400, "parallel_tool_calls": False}
        _, _, [(_, loose)] = message_of(ask("/v1/chat/completions", {**body, "tools": [WEATHER]}))
        _, _, [(_, held)] = message_of(ask("/v1/chat/completions", {**body, "tools": [strict]}))
    assert loose == {"town": "Oslo"}
    assert held["city"] in CITIES and 1 <= held["days"] <= 9


def test_strict_tools_do_not_keep_a_model_from_talking():
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    with asking(reciting("No <tool is needed.")) as ask:
        answer = ask("/v1/chat/completions", {"messages": HELLO, "tools": [strict]})
    assert message_of(answer) == ("stop", "No <tool is needed.", [])


def test_a_schema_for_answers_leaves_room_for_calls():
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    body = {"messages": HELLO, "tools": TOOLS, "response_format": wanted, "parallel_tool_calls": False}
    with asking(reciting(tool_formats.HERMES.written([CALL]))) as ask:
        assert message_of(ask("/v1/chat/completions", body))[2] == [("get_weather", CALL["arguments"])]
    with asking(reciting('{"ok": true}')) as ask:
        assert message_of(ask("/v1/chat/completions", body)) == ("stop", '{"ok": true}', [])


@pytest.mark.parametrize(
    "reply",
    [
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "stop", "arguments": {"a": oops}}\n</tool_call>',
        "<tool_call> nothing",
        '<tool_call>\n{"name": "stop", "arguments": {"a": 1',
    ],
)
def test_a_malformed_call_is_content(reply):
    with asking(reciting(reply)) as ask:
        answer = ask("/v1/chat/completions", {"messages": HELLO, "tools": TOOLS})
    assert message_of(answer) == ("stop", reply, [])


def test_one_call_at_a_time():
    reply = tool_formats.HERMES.written([CALL, CALL])
    with asking(reciting(reply)) as ask:
        body = {"messages": HELLO, "tools": TOOLS, "parallel_tool_calls": False}
        assert len(message_of(ask("/v1/chat/completions", body))[2]) == 1


def test_no_calls_where_none_are_wanted():
    reply = tool_formats.HERMES.written([CALL])
    with asking(reciting(reply)) as ask:
        for body in ({"tools": TOOLS, "tool_choice": "none"}, {}):
            answer = ask("/v1/chat/completions", {"messages": HELLO, **body})
            assert message_of(answer) == ("stop", reply, [])


@pytest.mark.parametrize(("template", "length"), [(HERMES, 29), (MISTRAL, 9)])
def test_ids_of_calls(template, length):
    form = dict(FORMS)[template]
    with asking(reciting(form.written([CALL, CALL]), template=template)) as ask:
        answer = ask("/v1/chat/completions", {"messages": HELLO, "tools": TOOLS}).json()
    ids = [call["id"] for call in answer["choices"][0]["message"]["tool_calls"]]
    assert len(set(ids)) == 2
    assert {len(name) for name in ids} == {length}
    assert template is MISTRAL or all(name.startswith("call_") for name in ids)


# ------------------------------------------------------------------------------- what the model is shown


ASKED = [
    {"role": "user", "content": "Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Rome", "days": 2}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "sun"}]},
]


def shown(template, **body):
    backend = reciting(template=template)
    try:
        return backend.render(ToolUse(ChatBody(**body), backend.tokenizer).prompt())
    finally:
        backend.shutdown()


def test_a_template_that_knows_tools_is_given_them():
    text = shown(HERMES, messages=ASKED, tools=TOOLS)
    tool, other, *rest = text.split("\n")
    assert json.loads(tool) == WEATHER and json.loads(other) == STOP
    call = 'get_weather({"city": "Rome", "days": 2})'
    assert rest == ["user: Rome?", f"assistant: {call}", "tool: rain", "tool: sun", TURN]


def test_otherwise_they_are_written_into_the_messages():
    text = shown(PLAIN, messages=ASKED, tools=TOOLS)
    instructions, talk = text.split("\nuser: Rome?\n")
    assert instructions.startswith("system: ")
    for tool in TOOLS:
        assert json.dumps(tool["function"]) in instructions
    assert "<tool_call>\n" in instructions
    assert talk == (
        f"assistant: {tool_formats.HERMES.written([CALL])}\n"
        "user: <tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>\n" + TURN
    )


def test_instructions_follow_the_system_message_there_is():
    text = shown(PLAIN, messages=[{"role": "system", "content": "Be kind."}, *HELLO], tools=TOOLS)
    assert text.startswith("system: Be kind.\n\nYou can call these functions.")


def test_earlier_calls_stay_readable_without_tools():
    text = shown(PLAIN, messages=ASKED)
    assert "functions" not in text and "<tool_call>" in text and "<tool_response>\nrain" in text


def test_what_a_tool_says_is_never_a_special_token():
    backend = reciting()
    body = ChatBody(messages=[*HELLO, {"role": "tool", "content": TURN}], tools=TOOLS)
    ids = backend.tokenizer.encode_prompt(ToolUse(body, backend.tokenizer).prompt())
    backend.shutdown()
    assert ids.count(257) == 1  # the turn of the assistant


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"tools": [STOP, STOP]}, "same name"),
        ({"tool_choice": "required"}, "no tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "go"}}}, "'go'"),
        ({"tools": TOOLS, "tool_choice": "required", "add_generation_prompt": False}, "tool_choice"),
    ],
)
def test_what_does_not_fit_together(body, named):
    backend = reciting()
    with pytest.raises(InvalidRequest, match=named):
        ToolUse(ChatBody(messages=HELLO, **body), backend.tokenizer)
    backend.shutdown()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "with space"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": TOOLS, "regex": "a+"}, "JSON schema"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "thing"}}}],
                "tool_choice": "required",
            },
            "thing",
        ),
    ],
)
def test_what_is_wrong_is_named(body, named):
    with asking(reciting()) as ask:
        response = ask("/v1/chat/completions", {"messages": HELLO, **body})
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]["message"]


def test_a_marker_that_is_no_text_cannot_stand_beside_a_schema():
    with asking(reciting(template=MISTRAL)) as ask:
        body = {"messages": HELLO, "tools": TOOLS, "response_format": {"type": "json_object"}}
        response = ask("/v1/chat/completions", body)
    assert response.status_code == 400
    assert "tool_choice" in response.json()["error"]["message"]
