"""Schemas as people and programs write them: each compiles, or is refused for the keyword it names.

The files in ``schemas/`` hold tools for function calling, fragments of OpenAPI documents, what pydantic makes
of models, records to extract from texts, verdicts of judges, and configurations.
"""

import json
import random
from datetime import datetime
from pathlib import Path

import jsonschema
import pytest
from json_language import Language

from ramet.errors import InvalidConstraint
from ramet.grammar.json_schema import RecursiveSchema, schema_to_node

FILES = sorted((Path(__file__).parent / "schemas").glob("*.json"))
ENTRIES = [
    pytest.param(entry, id=f"{path.stem}-{entry['name']}")
    for path in FILES
    for entry in json.loads(path.read_text(encoding="utf-8"))
]
CHECKER = jsonschema.FormatChecker(["date", "email", "ipv4", "ipv6", "uuid"])
CHECKER.checks("date-time", ValueError)(lambda text: text is None or bool(datetime.fromisoformat(text)))


def test_there_are_enough_schemas_of_each_kind():
    assert [path.stem for path in FILES] == [
        "configs",
        "extraction",
        "openapi",
        "pydantic",
        "tools",
        "verdicts",
    ]
    assert len(ENTRIES) >= 200


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_schema_compiles_or_is_refused_with_the_reason(entry):
    schema = entry["schema"]
    if "refused" in entry:
        error = RecursiveSchema if entry["refused"] == "recursive" else InvalidConstraint
        with pytest.raises(error) as raised:
            schema_to_node(schema)
        place = str(raised.value).removeprefix("json_schema at ").split(": ")[0]
        assert entry["refused"] == "recursive" or entry["refused"] in place.split("/")
        return
    assert entry["compiles"] is True
    language, rng = Language(schema), random.Random(entry["name"])
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    validator = kind(schema, format_checker=CHECKER)
    for length in (0, 50, 400):
        validator.validate(json.loads(language.sample(rng, length)))
