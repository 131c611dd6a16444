"""A JSON Schema as it was given, and where its references lead. Knows nothing of automata."""

from __future__ import annotations

from urllib.parse import unquote

from ramet.grammar.json_keywords import Assertions, below, checked, kind_of, refusal, shortened

MAX_DOCUMENT_DEPTH = 100
"""Arrays and objects in each other."""


class Document:
    """A schema that may contain others and refer to them.

    Raises:
        InvalidConstraint: it is nested too deep.
    """

    def __init__(self, root: object) -> None:
        _check_depth(root)
        self._root = root
        self._known: dict[
            int, tuple[object, Assertions]
        ] = {}  # with the schema, so that its identity stays its own

    def assertions(self, schema: object, path: str) -> Assertions:
        """The keywords of a schema that restrict its values. The same object each time.

        Raises:
            InvalidConstraint: a keyword is unknown, cannot be enforced, or has a value of the wrong kind.
        """
        known = self._known.get(id(schema))
        if known is not None:
            return known[1]
        if not isinstance(schema, dict):
            raise refusal(path, f"a schema must be an object or a boolean, got {kind_of(schema)}")
        found = checked(schema, path, is_root=schema is self._root)
        self._known[id(schema)] = schema, found
        return found

    def resolve(self, reference: str, path: str) -> tuple[object, str]:
        """The schema that a ``$ref`` at ``path`` refers to, and its own path.

        Raises:
            InvalidConstraint: it leads outside of the document, or nowhere.
        """
        shown = repr(shortened(reference))
        if reference != "#" and not reference.startswith("#/"):
            raise refusal(
                path, f"{shown} is not a reference into this document; copy its target into #/$defs/"
            )
        target, steps = self._root, reference[2:].split("/") if reference != "#" else []
        keys: list[str] = []
        for step in steps:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            keys.append(key)
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            else:
                raise refusal(path, f"{shown} leads nowhere: there is no {shortened(below('#', *keys))}")
        return target, below("#", *keys)


def _check_depth(root: object) -> None:
    waiting: list[tuple[object, int]] = [(root, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DOCUMENT_DEPTH:
            raise refusal("#", f"it is nested more than {MAX_DOCUMENT_DEPTH} levels deep")
        if isinstance(value, dict):
            waiting.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            waiting.extend((item, depth + 1) for item in value)
