"""Constraints on the bundled model, with its own tokenizer."""

from __future__ import annotations

import json
import re

import pytest

import ramet as rm

pytestmark = pytest.mark.model

PATTERNS = [
    r"\{\"name\": \"[A-Z][a-z]{1,11}\", \"age\": [1-9][0-9]?\}",
    r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
    r"https://www\.[a-z]{3,10}\.(com|org)/index\.html",
    r"The capital of France is (Paris|London|Berlin|日本)\. ☕ naïve",
    r"[\w .,]{20,60}\n- [^\n]{1,30}\n",
]
PROMPTS = ["Tell me something.", "Write a poem about the sea:", "1, 2, 3,"]


def outputs(engine, **sampling):
    return [
        engine.generate(PROMPTS, constraint=rm.Regex(pattern), max_tokens=200, **sampling)
        for pattern in PATTERNS
    ]


@pytest.fixture(scope="module")
def stepping():
    with rm.Engine(enable_jump_forward=False) as engine:
        yield engine


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.5, "seed": 7}])
def test_every_output_matches_with_and_without_jump_forward(engine, stepping, sampling):
    for one in (engine, stepping):
        for pattern, completions in zip(PATTERNS, outputs(one, **sampling), strict=True):
            for completion in completions:
                assert completion.finish_reason == "stop"
                assert re.fullmatch(pattern, completion.text), (pattern, completion.text)


def test_forced_text_is_tokenized_as_the_tokenizer_would(engine):
    """Where everything is forced, no token is emitted that a longer one could replace."""
    text = '{"full_name_of_the_customer": "Ada", "is_a_returning_customer": true, "naïve": ["日本", 12345]}'
    completion = engine.generate("Say: ", constraint=rm.Choice((text,)), max_tokens=200)
    assert completion.text == text
    assert list(completion.token_ids) == engine.backend._tokenizer.encode_continuation(text)


def test_the_model_chooses_where_a_longer_token_is_legal(engine):
    """After ``"city": "`` the model may well want a token that begins with the quote."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    }
    completion = engine.generate(
        "The capital of France, as JSON: ", constraint=rm.JsonSchema(json.dumps(schema)), temperature=0
    )
    assert json.loads(completion.text)["city"].startswith("Paris")


def test_jump_forward_takes_fewer_steps_for_the_same_language(engine, stepping):
    schema = {
        "type": "object",
        "properties": {f"a_rather_long_key_number_{i}": {"type": "boolean"} for i in range(6)},
        "required": [f"a_rather_long_key_number_{i}" for i in range(6)],
        "additionalProperties": False,
    }
    steps = []
    for one in (engine, stepping):
        before = one.stats().steps
        completion = one.generate(
            "Fill in: ", constraint=rm.JsonSchema(json.dumps(schema)), max_tokens=200, temperature=0
        )
        assert len(json.loads(completion.text)) == 6
        steps.append(one.stats().steps - before)
    assert steps[0] * 2 <= steps[1]
