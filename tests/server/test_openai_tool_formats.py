"""Grammars of tool calls: they allow what can be read back and validated, and nothing else."""

import json

import pytest
from reciting import chat_tokenizer

from ramet import InvalidConstraint
from ramet.grammar.compiler import GrammarCompiler
from ramet.server.openai.tool_formats import HERMES, LLAMA, MISTRAL, calls_grammar, taught_format

TREE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["value", "children"],
    "additionalProperties": False,
}
TOOLS = {
    "plant": TREE,
    "stop": {"type": "object", "properties": {}, "additionalProperties": False},
    "any.thing": {"type": "object"},
}
PLANT = {"name": "plant", "arguments": {"value": 1, "children": [{"value": 2, "children": []}]}}
STOP = {"name": "stop", "arguments": {}}
FORMS = [HERMES, MISTRAL, LLAMA]


@pytest.fixture(scope="module")
def compiler():
    tokenizer = chat_tokenizer()
    found = GrammarCompiler(tokenizer, len(tokenizer.vocab))
    yield found
    found.close()


@pytest.fixture(scope="module")
def allows(compiler):
    def check(grammar, text):
        matcher = compiler.get(grammar).matcher(jump_forward=False)
        try:
            for byte in text.encode():
                matcher.take(byte)
        except InvalidConstraint:
            return False
        return matcher.may_end

    return check


@pytest.mark.parametrize("form", FORMS)
def test_required_calls(allows, form):
    grammar = calls_grammar(TOOLS, form, may_talk=False)
    assert allows(grammar, form.written([PLANT]))
    assert allows(grammar, form.written([STOP]))
    assert allows(grammar, form.written([{"name": "any.thing", "arguments": {"a": [1, {"b": None}]}}]))
    assert allows(grammar, form.written([PLANT, STOP, STOP])) == form.takes_many
    assert not allows(grammar, "")
    assert not allows(grammar, "Hello " + form.written([STOP]))
    assert not allows(grammar, form.written([{"name": "plant", "arguments": {"value": 1}}]))
    assert not allows(grammar, form.written([{"name": "other", "arguments": {}}]))
    assert not allows(grammar, form.written([{"name": "stop", "arguments": {"a": 1}}]))


@pytest.mark.parametrize("form", FORMS)
def test_one_call_only(allows, form):
    grammar = calls_grammar(TOOLS, form, may_talk=False, max_calls=1)
    assert allows(grammar, form.written([STOP]))
    assert not allows(grammar, form.written([STOP, STOP]))


@pytest.mark.parametrize("form", FORMS)
def test_text_or_calls(allows, form):
    grammar = calls_grammar(TOOLS, form, may_talk=True)
    assert allows(grammar, "")
    assert allows(grammar, "A few words.\nAnd more: <tool, [TOOL.")
    assert allows(grammar, form.written([PLANT]))
    assert allows(grammar, "I will. " + form.written([PLANT]))
    assert not allows(grammar, form.written([{"name": "plant", "arguments": {"value": 1}}]))
    assert allows(grammar, form.written([PLANT, STOP])) == form.takes_many


@pytest.mark.parametrize("form", FORMS)
def test_a_value_or_calls(allows, form):
    grammar = calls_grammar(TOOLS, form, may_talk=True, content=json.dumps({"type": "integer"}))
    assert allows(grammar, "12")
    assert allows(grammar, form.written([STOP]))
    assert not allows(grammar, "twelve")


def test_the_marker_may_stand_in_the_prompt(allows):
    grammar = calls_grammar(TOOLS, MISTRAL, may_talk=False, marker_given=True)
    assert allows(grammar, MISTRAL.written([STOP]).removeprefix("[TOOL_CALLS]"))
    assert not allows(grammar, MISTRAL.written([STOP]))


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ('{{- "For each function call, return a json object within <tool_call></tool_call> tags" }}', HERMES),
        (
            '{{- "[TOOL_CALLS] [" }}{% for c in message.tool_calls %}{{ c.function | tojson }}{% endfor %}',
            MISTRAL,
        ),
        (
            '{{- \'Respond in the format {"name": function name, "parameters": dictionary of names}.\' }}',
            LLAMA,
        ),
        (r'{{- "{\"name\": function name, \"parameters\": dictionary}" }}', LLAMA),
        ('{{- "<tool_call>\\n<function=" + name + ">" }}', None),
        ('{{- "[TOOL_CALLS]" + name + "[ARGS]" }}', None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
    ],
)
def test_the_format_a_template_teaches(source, form):
    assert taught_format(source) is form
