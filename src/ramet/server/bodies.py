"""What the bodies of both interfaces have in common: the first wrong thing in them is enough.

A body may hold millions of wrong things, and to describe each of them would take minutes. Must not know:
what is in a body.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from pydantic import BaseModel, Field

FAIL_FAST = Field(fail_fast=True)
"""Of a list: it is not looked at beyond the first wrong item."""


def with_one_unknown_field(given: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """An object without the fields that ``model`` does not know, but for the first of them."""
    known = {name for field, info in model.model_fields.items() for name in (field, info.alias)}
    unknown = islice((name for name in given if name not in known), 1)
    kept = known.union(unknown)
    return {name: value for name, value in given.items() if name in kept}
