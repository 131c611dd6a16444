"""Constraints as people write them, each with a text that satisfies it."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constrained_decoding.workload import RECORD, SCHEMA
from ramet.constraints import Choice, Constraint, JsonSchema, Regex
from ramet.typed import of_json_schema

EXAMPLES = "examples/"
"""What the names of their cases begin with."""
_FOLDER = Path(__file__).resolve().parents[2] / "examples"
_FILLED_IN = {
    "Founded on": "1987-04-23",
    "Website": "https://www.bakery.com/",
    "Phone": "+46 123 4567",
    "Motto": "Bread that arrives warm.",
}

_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# fmt: off
_CITIES = [
    "Amsterdam", "Ankara", "Athens", "Baku", "Belgrade", "Berlin", "Bern", "Bratislava", "Brussels",
    "Bucharest", "Budapest", "Chisinau", "Copenhagen", "Dublin", "Helsinki", "Kyiv", "Lisbon",
    "Ljubljana", "London", "Luxembourg", "Madrid", "Minsk", "Monaco", "Moscow", "Nicosia", "Oslo",
    "Paris", "Podgorica", "Prague", "Reykjavik", "Riga", "Rome", "Sarajevo", "Skopje", "Sofia",
    "Stockholm", "Tallinn", "Tbilisi", "Tirana", "Vaduz", "Valletta", "Vienna", "Vilnius", "Warsaw",
    "Yerevan", "Zagreb",
]
# fmt: on

_TOOLS: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, arguments in (
            (
                "get_current_weather",
                {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string", "maxLength": 40},
                        "unit": {"enum": ["celsius", "fahrenheit"]},
                    },
                    "required": ["city", "unit"],
                    "additionalProperties": False,
                },
            ),
            (
                "set_alarm_clock",
                {
                    "type": "object",
                    "properties": {
                        "hour": {"type": "integer", "minimum": 0, "maximum": 23},
                        "minute": {"type": "integer", "minimum": 0, "maximum": 59},
                    },
                    "required": ["hour", "minute"],
                    "additionalProperties": False,
                },
            ),
        )
    ]
}

_INVOICE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "number": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{6}$"},
        "issued_on": {"type": "string", "format": "date"},
        "lines": {
            "type": "array",
            "minItems": 1,
            "maxItems": 5,
            "items": {
                "type": "object",
                "properties": {
                    "article": {"type": "string", "maxLength": 30},
                    "quantity": {"type": "integer", "minimum": 1, "maximum": 999},
                    "price": {"type": "number"},
                },
                "required": ["article", "quantity", "price"],
                "additionalProperties": False,
            },
        },
        "is_paid": {"type": "boolean"},
    },
    "required": ["number", "issued_on", "lines", "is_paid"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A constraint and a text that satisfies it."""

    name: str
    constraint: Constraint
    text: str

    @property
    def wire(self) -> tuple[str, str]:
        """Kind and text for other libraries, which have no choices: those become a regex."""
        match self.constraint:
            case Regex(pattern):
                return "regex", pattern
            case JsonSchema(schema):
                return "json_schema", schema
            case Choice(choices):
                return "regex", "|".join(map(re.escape, choices))
        raise TypeError(f"no case has a {type(self.constraint).__name__}")


def cases(*, quick: bool = False) -> list[Case]:
    """All of them, or a few."""
    chosen = [*_examples(), *_own()]
    return chosen[:4] if quick else chosen


def _own() -> list[Case]:
    def regex(name: str, pattern: str, text: str) -> Case:
        return Case(name, Regex(pattern), text)

    def schema(name: str, value: dict[str, Any], text: str) -> Case:
        return Case(name, JsonSchema(json.dumps(value)), text)

    return [
        schema("JSON: the record of the workload", SCHEMA, RECORD),
        regex("date", "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])", "2024-02-29"),
        regex(
            "paragraph of 1 to 400 characters",
            r"[^\n]{1,400}",
            "The tide was out, and the boats lay on sand.",
        ),
        regex("number", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+\-]?[0-9]+)?", "-273.15e0"),
        regex("IPv4 address", rf"({_BYTE}\.){{3}}{_BYTE}", "192.168.0.254"),
        regex("UUID", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "0c2e4f60-91ab-4d3c-8e5f-00112233aabb"),
        regex(
            "email address",
            r"[A-Za-z0-9._%+\-]{1,64}@([a-z0-9\-]{1,63}\.){1,4}[a-z]{2,12}",
            "martha.lindqvist@post.example.org",
        ),
        regex(
            "web address",
            r"https?://([a-z0-9\-]+\.)+[a-z]{2,12}(/[A-Za-z0-9._~\-]*)*(\?[A-Za-z0-9=&_\-]*)?",
            "https://www.example.org/tea/green_leaf.html?pot=2&cup=4",
        ),
        regex(
            "telephone number",
            r"\+[1-9][0-9]{0,2}( [0-9]{2,4}){2,4}",
            "+46 08 123 45 67",
        ),
        regex(
            "list of up to 10 lines",
            r"(- [^\n]{1,80}\n){1,10}",
            "- two eggs\n- a cup of flour\n- milk, as much as it takes\n",
        ),
        regex(
            "sentence of any language",
            r"\w+(,? \w+){2,30}[.!?]",
            "Die Möwen ziehen früh, und das Meer wird grau.",
        ),
        Case(f"one of {len(_CITIES)} cities", Choice(tuple(_CITIES)), "Reykjavik"),
        schema(
            "JSON: call of one of 2 tools",
            _TOOLS,
            '{"name": "get_current_weather", "arguments": {"city": "Porto", "unit": "celsius"}}',
        ),
        schema(
            "JSON: invoice with lines",
            _INVOICE,
            '{"number": "RE-004711", "issued_on": "2025-03-14", "lines": [{"article": "brass '
            'hinge", "quantity": 8, '
            '"price": 4.5}, {"article": "screw", "quantity": 32, "price": 0.1}], "is_paid": false}',
        ),
    ]


def _examples() -> list[Case]:
    """The constraints of the examples."""
    review = _load("json_extraction").Review
    text = '{"name_of_the_dish": "mushroom soup", "would_order_again": true, "number_of_stars": 5}'
    json_case = Case(f"{EXAMPLES}json_extraction.py", of_json_schema(review).constraint, text)
    fields: dict[str, str] = _load("regex_fields").FIELDS
    return [
        json_case,
        *(
            Case(f"{EXAMPLES}regex_fields.py {name}", Regex(pattern), _FILLED_IN[name])
            for name, pattern in fields.items()
        ),
    ]


def _load(example: str) -> Any:
    spec = importlib.util.spec_from_file_location(example, _FOLDER / f"{example}.py")
    assert spec is not None and spec.loader is not None, example
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
