"""Checks of numbers that callers give: the message names the field, the limit and what was given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ramet.errors import InvalidRequest


def check_int(name: str, value: Any, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be an integer, got {type(value).__name__}")
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InvalidRequest(f"{name} must be {bounds}, got {value}")


def check_ints(name: str, values: Sequence[Any], low: int) -> list[int]:
    """The values as a list of plain integers, none below ``low``. Fast for thousands of them."""
    given = list(values)
    if set(map(type, given)) != {int} or min(given) < low:
        for value in given:
            check_int(name, value, low)
        return [int(value) for value in given]  # integers of a class of their own, or none at all
    return given


def check_float(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequest(f"{name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, got {value}")
