"""JSON schemas of what is on the wire, for documents of the interface: made from the classes, all inline."""

from __future__ import annotations

from typing import Any

import msgspec

from ramet.sampling_params import SamplingParams
from ramet.wire.prompts import PARTS
from ramet.wire.sampling import ALIASES, CONSTRAINTS


def schema_of(kind: Any) -> dict[str, Any]:
    """The schema of a class, or of a union of them."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="{name}")

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inlined(components[value["$ref"]])
            return {key: inlined(each) for key, each in value.items() if key != "discriminator"}
        return [inlined(each) for each in value] if isinstance(value, (list, tuple)) else value

    result: dict[str, Any] = inlined(schema)
    return result


def part_schema() -> dict[str, Any]:
    """Of what `ramet.wire.decode_prompt` takes a list of."""
    kinds = []
    for tag, kind in PARTS.items():
        schema = schema_of(kind)
        properties = {"type": {"const": tag}, **schema["properties"]}
        required = ["type", *schema["required"]]
        kinds.append(
            {**schema, "properties": properties, "required": required, "additionalProperties": False}
        )
    return {"anyOf": kinds}


def params_schema() -> dict[str, Any]:
    """Of what `ramet.wire.decode_params` takes."""
    schema = schema_of(SamplingParams)
    properties = dict(schema["properties"])
    for alias, name in ALIASES.items():
        properties[alias] = {"type": "integer", "description": f"Another name of {name}."}
    properties["stop"] = {"anyOf": [{"type": "string"}, properties["stop"]]}
    properties["logit_bias"] = {"type": "object", "additionalProperties": {"type": "number"}}
    for name, kind in CONSTRAINTS.items():
        properties[name] = {"description": (kind.__doc__ or "").partition("\n")[0]}
    return {**schema, "properties": properties, "additionalProperties": False}
