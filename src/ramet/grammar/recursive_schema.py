"""A recursive JSON schema in the form that a parser of context-free grammars is given.

The schema is written anew from checked keywords: every reference leads to a definition of its own, regexes
and formats are in one plain spelling, and what the parser would read in another way, or not at all, is gone
or refused. Invariant: every value of the new schema is valid for the old one, and every definition in it has
a value that ends. Knows nothing of the parser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from ramet.errors import InvalidConstraint
from ramet.grammar.json_document import Document
from ramet.grammar.json_formats import FORMATS
from ramet.grammar.json_keywords import FAMILIES, Assertions, below, refusal
from ramet.grammar.json_merge import Flattener
from ramet.grammar.json_patterns import pattern_node
from ramet.grammar.json_text import intersection
from ramet.grammar.nodes import Alternate, Chars, Concat, Literal, Node, Repeat, any_of, chars, complement

MAX_NESTING = 600
"""The depths of all definitions, added up: how deep a parser gets that follows every reference at once."""

MAX_KEY_PATTERNS = 200
"""In ``patternProperties``, all together: the parser compares each with each."""
MAX_PROPERTIES = 3000
"""All together."""
MAX_MULTIPLE = 1000
"""Of ``multipleOf``: its automaton has as many states, and the parser builds them all at once."""

_UNSPELLED = chars((0x00, 0x07), (0x0B, 0x0B), (0x0E, 0x1F), (0x7F, 0x7F))
"""What would be written as ``\\u`` and four digits: the parser takes them for other letters in keys."""
_SPELLED = complement(_UNSPELLED)

_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_MAPS = ("properties", "patternProperties")
_LISTS = ("prefixItems", "allOf", "anyOf")
_SINGLE = ("items", "additionalProperties", "propertyNames")


def standalone_schema(schema: object) -> dict[str, Any]:
    """The schema with nothing in it but keywords that restrict, and references to its own ``$defs``.

    Raises:
        InvalidConstraint: a keyword cannot be enforced, a definition has no value that ends, or references go
            too deep; the message points to the place.
    """
    return _Rewriter(schema).rewritten()


class _Rewriter:
    def __init__(self, root: object) -> None:
        self._root = root
        self._document = Document(root)
        self._flattener = Flattener(self._document)
        self._names: dict[int, str] = {}
        self._num_properties = self._num_key_patterns = 0
        self._bounds: dict[str, dict[float, str]] = {}  # where numbers are bounded: keyword, bound, path
        self._waiting: list[tuple[object, str]] = []

    def rewritten(self) -> dict[str, Any]:
        result: dict[str, Any] = {"$ref": self._reference(self._root, "#")}
        definitions: dict[str, Any] = {}
        paths: dict[str, str] = {}
        nesting = 0
        while self._waiting:
            schema, path = self._waiting.pop()
            name = self._names[id(schema)]
            definitions[name], paths[name] = self._schema(schema, path), path
            nesting += _depth(definitions[name])
            if nesting > MAX_NESTING:
                raise refusal(
                    path,
                    f"the definitions of a recursive schema are nested more than {MAX_NESTING} levels deep "
                    "when added up; use fewer or flatter ones",
                )
        for name in definitions.keys() - _ending(definitions):
            raise refusal(paths[name], "every value contains another one of the kind, so none ever ends")
        self._check_bounds()
        return result | {"$defs": definitions}

    def _check_bounds(self) -> None:
        """Refuse bounds that the parser gets wrong: between 0, itself excluded, and a fraction, it writes 0.

        Which bounds meet, through references and ``allOf``, is not followed here: one of each is enough.
        """
        for excluded, others in (("exclusiveMinimum", _BOUNDS[2:]), ("exclusiveMaximum", _BOUNDS[:2])):
            path = self._bounds.get(excluded, {}).get(0)
            limits = [limit for keyword in others for limit in self._bounds.get(keyword, ())]
            if path is not None and any(0 < abs(limit) < 1 for limit in limits):
                raise refusal(
                    path, f"{excluded} 0 is not enforced beside bounds between -1 and 1; use a fraction"
                )

    def _reference(self, schema: object, path: str) -> str:
        name = self._names.get(id(schema))
        if name is None:
            name = self._names[id(schema)] = str(len(self._names))
            self._waiting.append((schema, path))
        return f"#/$defs/{name}"

    def _schema(self, schema: object, path: str) -> object:
        if isinstance(schema, bool):
            return schema
        given = self._document.assertions(schema, path)
        found: Assertions = {}
        for keyword, value in given.items():
            at = below(path, keyword)
            if keyword == "$ref":
                found[keyword] = self._reference(*self._document.resolve(value, at))
            elif keyword == "properties":
                self._num_properties += len(value)
                if self._num_properties > MAX_PROPERTIES:
                    raise refusal(at, f"a recursive schema may have up to {MAX_PROPERTIES} properties")
                found[keyword] = {key: self._schema(item, below(at, key)) for key, item in value.items()}
            elif keyword == "patternProperties":
                self._num_key_patterns += len(value)
                if self._num_key_patterns > MAX_KEY_PATTERNS:
                    raise refusal(
                        at, f"a recursive schema may have up to {MAX_KEY_PATTERNS} patterns for keys"
                    )
                found[keyword] = {
                    _pattern(key, at): self._schema(value[key], below(at, key)) for key in value
                }
            elif keyword == "oneOf":
                self._check_exclusive(value, at)
            elif keyword in _LISTS:
                found[keyword] = [self._schema(item, below(at, index)) for index, item in enumerate(value)]
            elif keyword in _SINGLE:
                found[keyword] = self._schema(value, at)
            elif keyword == "pattern":
                found[keyword] = _pattern(value, at)
            elif keyword == "format":
                if value not in FORMATS:
                    raise refusal(at, f"unknown format {value!r}; there are {', '.join(sorted(FORMATS))}")
                if "pattern" in given:
                    raise refusal(at, "pattern and format cannot be enforced together; keep one of them")
                found["pattern"] = f"^(?:{spell(FORMATS[value])})$"
            elif keyword in _BOUNDS and "number" in given.get("type", ["number"]):
                self._bounds.setdefault(keyword, {}).setdefault(value, at)
                found[keyword] = value
            elif keyword == "multipleOf" and not (value == int(value) and value <= MAX_MULTIPLE):
                raise refusal(at, f"only whole numbers up to {MAX_MULTIPLE} are enforced")
            else:
                if keyword == "enum" and not all(map(_is_spelled, value)):
                    raise refusal(
                        path, "a constant holds a control character, which recursive schemas may not"
                    )
                found[keyword] = value
        if "oneOf" in given:
            options = [
                self._schema(option, below(path, "oneOf", i)) for i, option in enumerate(given["oneOf"])
            ]
            # Alternatives that exclude each other: any of them is one of them.
            if "anyOf" not in found:
                found["anyOf"] = options
            else:
                found["allOf"] = [*found.get("allOf", []), {"anyOf": options}]
        if "type" not in found and "enum" not in found:
            named = [name for name, keywords in FAMILIES.items() if not given.keys().isdisjoint(keywords)]
            if named:  # as in schemas that are regular: values of other types, to which they do not apply, go
                found["type"] = named
        return found

    def _check_exclusive(self, options: list[object], path: str) -> None:
        for (first, one), (second, other) in combinations(enumerate(options), 2):
            if not self._flattener.exclude_each_other(one, other, path):
                raise refusal(
                    path,
                    f"a value may be valid for both alternative {first} and {second}, as far as can be told; "
                    "use anyOf, or give both a property with different constants",
                )


def _pattern(pattern: str, path: str) -> str:
    try:
        return f"^(?:{spell(pattern_node(pattern))})$"
    except InvalidConstraint as error:
        raise refusal(path, str(error)) from error


def _is_spelled(value: object) -> bool:
    match value:
        case str():
            return not any(low <= ord(letter) <= high for letter in value for low, high in _UNSPELLED.ranges)
        case list():
            return all(map(_is_spelled, value))
        case dict():
            return all(map(_is_spelled, [*value, *value.values()]))
    return True


def spell(node: Node) -> str:
    """A regular language as a regex of groups, classes, ``|`` and ``{n,m}`` only."""
    match node:
        case Literal(text):
            return "".join(spell(any_of(character)) for character in text)
        case Chars():
            ranges = intersection(node, _SPELLED).ranges
            if not ranges:
                raise InvalidConstraint(
                    "it asks for a control character, which strings of recursive schemas lack"
                )
            if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
                return _character(chr(ranges[0][0]))
            return (
                f"[{''.join(_character(chr(a)) + ('-' + _character(chr(b))) * (a < b) for a, b in ranges)}]"
            )
        case Concat(parts):
            return "".join(map(spell, parts))
        case Alternate(options):
            return f"(?:{'|'.join(map(spell, options))})"
        case Repeat(inner, low, high):
            return f"(?:{spell(inner)}){{{low},{'' if high is None else high}}}"


def _character(character: str) -> str:
    plain = character.isascii() and character.isalnum()
    return character if plain else f"\\x{{{ord(character):x}}}"


def matches_nothing_too(node: Node) -> bool:
    """Whether the empty string is in the language."""
    match node:
        case Literal(text):
            return not text
        case Chars():
            return False
        case Concat(parts):
            return all(map(matches_nothing_too, parts))
        case Alternate(options):
            return any(map(matches_nothing_too, options))
        case Repeat(inner, low, _):
            return low == 0 or matches_nothing_too(inner)


# ------------------------------------------------------------------------------------------------ definitions


def _inside(schema: Mapping[str, Any]) -> Iterator[object]:
    for keyword in _MAPS:
        yield from schema.get(keyword, {}).values()
    for keyword in _LISTS:
        yield from schema.get(keyword, ())
    for keyword in _SINGLE:
        yield schema.get(keyword)


def _depth(schema: object) -> int:
    return 1 + max(map(_depth, _inside(schema)), default=0) if isinstance(schema, dict) else 1


def _ending(definitions: Mapping[str, object]) -> set[str]:
    """The definitions that have a value of finite length: the least fixed point."""
    ending: set[str] = set()
    while True:
        found = {name for name, schema in definitions.items() if _ends(schema, ending)}
        if found == ending:
            return ending
        ending = found


def _ends(schema: object, ending: set[str]) -> bool:
    """Whether a value ends if those of the definitions in ``ending`` do. No value at all counts as ending."""
    if not isinstance(schema, dict):
        return True
    if "$ref" in schema and schema["$ref"].rpartition("/")[2] not in ending:
        return False
    if not all(_ends(part, ending) for part in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(_ends(option, ending) for option in schema["anyOf"]):
        return False
    if "enum" in schema:
        return True
    types = schema.get("type", ["null"])
    return (
        any(name not in ("object", "array") for name in types)
        or ("object" in types and _object_ends(schema, ending))
        or ("array" in types and _array_ends(schema, ending))
    )


def _object_ends(schema: Mapping[str, Any], ending: set[str]) -> bool:
    named, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    return all(_ends(named.get(key, others), ending) for key in schema.get("required", ()))


def _array_ends(schema: Mapping[str, Any], ending: set[str]) -> bool:
    least, prefix = schema.get("minItems", 0), schema.get("prefixItems", [])
    needed = [*prefix[:least], *([schema.get("items", True)] if least > len(prefix) else [])]
    return all(_ends(item, ending) for item in needed)
