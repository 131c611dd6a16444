"""From a body to sampling parameters. Must not know: tools, prompts, responses."""

from __future__ import annotations

from dataclasses import fields

from ramet.constraints import Cfg, Choice, Constraint, JsonSchema, Regex
from ramet.errors import InvalidRequest
from ramet.sampling_params import SamplingParams
from ramet.server.openai.schemas import GenerationBody

ANY_OBJECT = Cfg('start: %json {"type": "object"}')
"""Objects to any depth; the regular language of this schema would end at two levels."""

_OTHERWISE = frozenset({"max_tokens", "logprobs", "logit_bias", "seed", "constraint"})
_ALIKE = tuple(field.name for field in fields(SamplingParams) if field.name not in _OTHERWISE)
"""Parameters that bodies call by the same name."""


def sampling_params(
    body: GenerationBody, *, max_tokens: int, logprobs: int | None, constraint: Constraint | None
) -> SamplingParams:
    """The parameters that a body asks for.

    Raises:
        InvalidRequest: one is out of range.
    """
    given = {name: value for name in _ALIKE if (value := getattr(body, name)) is not None}
    return SamplingParams(
        **given,
        max_tokens=max_tokens,
        logprobs=logprobs,
        logit_bias={int(token_id): bias for token_id, bias in (body.logit_bias or {}).items()},  # type: ignore[arg-type]
        seed=None if body.seed is None else body.seed % 2**63,
        constraint=constraint,
    )


def constraint_of(body: GenerationBody) -> Constraint | None:
    """What the text must be, under whichever name the body says it.

    Raises:
        InvalidRequest: it says so more than once.
        InvalidConstraint: a grammar cannot be read.
    """
    found: dict[str, Constraint] = {}
    response_format = body.response_format
    if response_format is not None and response_format.type == "json_object":
        found["response_format"] = ANY_OBJECT
    elif response_format is not None and response_format.json_schema is not None:
        schema = response_format.json_schema.json_schema
        found["response_format"] = ANY_OBJECT if schema is None else JsonSchema(schema)
    outputs = body.structured_outputs
    if outputs is not None and outputs.json_object:
        found["structured_outputs.json_object"] = ANY_OBJECT
    for name, pattern in (
        ("regex", body.regex),
        ("guided_regex", body.guided_regex),
        ("structured_outputs.regex", outputs.regex if outputs else None),
    ):
        if pattern is not None:
            found[name] = Regex(pattern)
    for name, given in (
        ("json_schema", body.json_schema),
        ("guided_json", body.guided_json),
        ("structured_outputs.json", outputs.json_schema if outputs else None),
    ):
        if given is not None:
            found[name] = JsonSchema(given)
    for name, choices in (
        ("guided_choice", body.guided_choice),
        ("structured_outputs.choice", outputs.choice if outputs else None),
    ):
        if choices is not None:
            found[name] = Choice(choices)
    for name, grammar in (
        ("ebnf", body.ebnf),
        ("guided_grammar", body.guided_grammar),
        ("structured_outputs.grammar", outputs.grammar if outputs else None),
    ):
        if grammar is not None:
            found[name] = Cfg(grammar)
    if len(found) > 1:
        raise InvalidRequest(f"only one of {', '.join(found)} may be given: a text meets one constraint")
    return next(iter(found.values()), None)
