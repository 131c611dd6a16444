"""Reading calls of tools: whatever a model writes, in whatever pieces it comes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet.server.openai.tool_formats import HERMES, LLAMA, MISTRAL
from ramet.server.openai.tool_parser import Arguments, CallBegins, Content, ToolCallParser

NAMES = {"get_weather", "stop"}
FORMS = {"hermes": HERMES, "mistral": MISTRAL, "llama": LLAMA}


def read(form, *pieces, max_calls=None):
    """``(content, [(name, arguments)])`` of an answer that comes in pieces."""
    parser = ToolCallParser(form, NAMES, max_calls=max_calls)
    content, calls = "", []
    for event in [event for piece in pieces for event in parser.feed(piece)] + parser.finish():
        match event:
            case Content(text):
                content += text
            case CallBegins(name):
                calls.append((name, ""))
            case Arguments(text):
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
    return content, calls


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        (HERMES, "Just words, no <tool call.", "Just words, no <tool call.", []),
        (HERMES, "  \n", "  \n", []),
        (
            HERMES,
            'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
            "Let me see.",
            [("get_weather", '{"city": "Rome"}')],
        ),
        (
            HERMES,
            '<tool_call>{"name":"stop","arguments":{}}</tool_call>\n'
            '<tool_call>{"name":"get_weather","arguments":{"city":"}\\"{"}}</tool_call>\n',
            "",
            [("stop", "{}"), ("get_weather", '{"city":"}\\"{"}')],
        ),
        (  # the other order of keys, another word for arguments, and more keys
            HERMES,
            '<tool_call>{"id": 7, "parameters": {"a": [1]}, "name": "stop"}</tool_call>',
            "",
            [("stop", '{"a": [1]}')],
        ),
        (HERMES, '<tool_call>{"name": "stop", "arguments": {}, "id": 7}</tool_call>', "", [("stop", "{}")]),
        (MISTRAL, '[TOOL_CALLS] [{"name": "stop", "arguments": {}}]', "", [("stop", "{}")]),
        (
            MISTRAL,
            'Hm. [TOOL_CALLS][{"name": "stop", "arguments": {}}, {"name": "stop", "arguments": {"a": 1}}]',
            "Hm.",
            [("stop", "{}"), ("stop", '{"a": 1}')],
        ),
        (LLAMA, '\n{"name": "stop", "parameters": {"x": 1}}', "", [("stop", '{"x": 1}')]),
        (
            LLAMA,
            '{"name": "stop", "parameters": {}}; {"name": "stop", "parameters": {"x": 1}}',
            "",
            [("stop", "{}"), ("stop", '{"x": 1}')],
        ),
    ],
)
def test_calls_and_the_text_around_them(form, text, content, calls):
    assert read(form, text) == (content, calls)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call> there'),
        (HERMES, "<tool_call> what was I to do?"),
        (HERMES, '<tool_call>{"name": "stop"}</tool_call>'),
        (HERMES, '<tool_call>{"name": "stop", "arguments": "none"}</tool_call>'),
        (HERMES, '<tool_call>{"name": stop, "arguments": {}}</tool_call>'),
        (HERMES, "<tool_call>\n</tool_call>"),
        (HERMES, '<tool_call>{"name": "sto'),
        (HERMES, "a <tool_c"),
        (MISTRAL, "[TOOL_CALLS] nothing"),
        (MISTRAL, '[TOOL_CALLS][{"name": 1}]'),
        (LLAMA, '{"name": "unknown", "parameters": {}} and more'),
        (LLAMA, '{"a": {"b": 1}, "c": [2]}'),
        (LLAMA, 'I would say {"name": "stop", "parameters": {}}'),
        (LLAMA, "{ not JSON }"),
    ],
)
def test_what_is_no_call_is_content_as_it_stands(form, text):
    assert read(form, text) == (text, [])


def test_a_call_cut_short_keeps_the_arguments_it_has():
    assert read(HERMES, '<tool_call>{"name": "stop", "arguments": {"why": "bec') == (
        "",
        [("stop", '{"why": "bec')],
    )


def test_no_more_calls_than_are_wanted():
    one = HERMES.written([{"name": "stop", "arguments": {}}])
    assert read(HERMES, f"{one}\n{one}\nbye", max_calls=1) == ("", [("stop", "{}")])


def test_a_name_is_told_before_its_arguments_are_complete():
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.feed('<tool_call>\n{"name": "stop", "arguments": {"a"') == [
        CallBegins("stop"),
        Arguments('{"a"'),
    ]
    assert parser.feed(": [1, {") == [Arguments(": [1, {")]
    assert parser.feed("}]}}\n</tool_call>") == [Arguments("}]}")]


def test_text_is_told_at_once_but_for_what_may_become_a_marker():
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.feed("Hello <tool") == [Content("Hello")]
    assert parser.feed("box> and") == [Content(" <toolbox> and")]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(sorted(NAMES)),
            "arguments": st.dictionaries(st.text(max_size=4), VALUES, max_size=3),
        }
    ),
    min_size=1,
    max_size=3,
)


@given(calls=CALLS, form=st.sampled_from([HERMES, MISTRAL]), size=st.integers(1, 30))
def test_calls_come_back_as_they_were_written(calls, form, size):
    text = form.written(calls)
    content, found = read(form, *(text[at : at + size] for at in range(0, len(text), size)))
    assert content == ""
    assert [{"name": name, "arguments": json.loads(arguments)} for name, arguments in found] == calls


SCRAPS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", '{"name": "stop", ', '"arguments": {', '{"b": 1}'),
        *('{"name": "stop", "arguments": {"a": "}"}}', "word", "}}", "}", "{", "[", "]", '"', "\\"),
        *(",", ";", " ", "\n", "<"),
    ]
)


@given(scraps=st.lists(SCRAPS, max_size=12), form=st.sampled_from(sorted(FORMS)), size=st.integers(1, 9))
def test_what_is_read_does_not_depend_on_the_pieces(scraps, form, size):
    text = "".join(scraps)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert read(FORMS[form], *pieces) == read(FORMS[form], text)
