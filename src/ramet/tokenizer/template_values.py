"""Values for chat templates: JSON that callers give, in which the names of special tokens stay mere text.

A template looks into tools and tool calls and writes parts of them among text of its own, which is trusted.
So the names of special tokens in them are put between marks, by which they are found in what was rendered.
Knows nothing of messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ramet.errors import InvalidRequest

# Private-use letters that no template writes. They are taken out of what callers give.
MARK = "\uf8ff"
"""For placeholders."""
_BEGIN, _END = "\uf8fd", "\uf8fe"

_GIVEN_NAME = re.compile(f"{_BEGIN}([^{_BEGIN}{_END}]*){_END}")
_NO_MARKS = str.maketrans("", "", MARK + _BEGIN + _END)


def json_values(text: str, special_names: re.Pattern[str] | None) -> dict[str, Any]:
    """The object that a JSON text describes, with marks around whatever ``special_names`` matches in it.

    Raises:
        InvalidRequest: it is no JSON object.
    """
    try:
        value = _with_marks(json.loads(text), special_names)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the values for a chat template are no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the values for a chat template must be a JSON object")
    return value


def without_marks(text: str) -> Iterator[tuple[str, bool]]:
    """The pieces of a rendering that are not empty, and whether each is a name that was given."""
    for index, piece in enumerate(_GIVEN_NAME.split(text)):
        if kept := piece.translate(_NO_MARKS):
            yield kept, index % 2 == 1


def _with_marks(value: Any, special_names: re.Pattern[str] | None) -> Any:
    match value:
        case str():
            plain = value.translate(_NO_MARKS)
            return special_names.sub(rf"{_BEGIN}\g<0>{_END}", plain) if special_names else plain
        case list():
            return [_with_marks(item, special_names) for item in value]
        case dict():
            return {_with_marks(k, special_names): _with_marks(v, special_names) for k, v in value.items()}
    return value
