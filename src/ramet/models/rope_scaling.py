"""How a config.json describes stretched rotary frequencies.

Two spellings are in use: ``rope_theta`` and ``rope_scaling`` side by side, or both inside
``rope_parameters``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ramet.errors import CorruptWeights, UnsupportedModel
from ramet.models.config import RopeScaling

_DEFAULT_ROPE_THETA = 10000.0


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """YaRN's temperature: what it multiplies cosines and sines by (arXiv 2309.00071, eq. 22)."""
    return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0


def read_rope(path: Path, config: Mapping[str, Any], context_length: int) -> tuple[float, RopeScaling | None]:
    """``rope_theta`` and the scaling from a ``config.json``.

    Raises:
        UnsupportedModel: a kind of scaling this version does not compute.
        CorruptWeights: a value is missing or of the wrong type.
    """
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    for name, value in (("rope_parameters", rope), ("rope_scaling", scaling)):
        if not isinstance(value, dict):
            raise CorruptWeights(f"{path}: {name} must be an object, got {type(value).__name__}")
    if any(isinstance(value, dict) for value in rope.values()):
        raise UnsupportedModel(f"{path}: rope_parameters differ between layers")
    merged = {**scaling, **rope}
    reader = _Reader(path, merged)
    theta = config.get("rope_theta", _DEFAULT_ROPE_THETA)
    rope_theta = _Reader(path, {"rope_theta": merged.get("rope_theta", theta)}).number("rope_theta")
    partial = merged.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise UnsupportedModel(f"{path}: partial_rotary_factor {partial}")
    kind = merged.get("rope_type", merged.get("type", "default"))
    if kind == "default":
        return rope_theta, None
    if kind == "linear":
        return rope_theta, RopeScaling(kind="linear", factor=reader.number("factor"))
    original = merged.get("original_max_position_embeddings")
    original = config.get("original_max_position_embeddings") if original is None else original
    if original is not None and (isinstance(original, bool) or not isinstance(original, int)):
        raise CorruptWeights(f"{path}: original_max_position_embeddings must be an integer, got {original!r}")
    if kind == "llama3":
        if original is None:
            raise CorruptWeights(f"{path}: rope scaling 'llama3' needs original_max_position_embeddings")
        low, high = reader.number("low_freq_factor"), reader.number("high_freq_factor")
        if low >= high:
            raise CorruptWeights(
                f"{path}: low_freq_factor must be less than high_freq_factor, got {low} and {high}"
            )
        return rope_theta, RopeScaling(
            kind="llama3",
            factor=reader.number("factor"),
            original_context_length=original,
            low_freq_factor=low,
            high_freq_factor=high,
        )
    if kind == "yarn":
        if merged.get("truncate") is False:
            raise UnsupportedModel(f"{path}: rope scaling 'yarn' with truncate false")
        factor = reader.number("factor")
        return rope_theta, RopeScaling(
            kind="yarn",
            factor=factor,
            original_context_length=context_length if original is None else original,
            beta_fast=reader.number("beta_fast", 32.0),
            beta_slow=reader.number("beta_slow", 1.0),
            attention_factor=_attention_factor(reader, factor),
        )
    raise UnsupportedModel(f"{path}: rope scaling {kind!r}; supported are default, linear, llama3 and yarn")


def _attention_factor(reader: _Reader, factor: float) -> float:
    if reader.values.get("attention_factor") is not None:
        return reader.number("attention_factor")
    if reader.values.get("mscale") and reader.values.get("mscale_all_dim"):
        scale, scale_all = reader.number("mscale"), reader.number("mscale_all_dim")
        return yarn_magnitude(factor, scale) / yarn_magnitude(factor, scale_all)
    return yarn_magnitude(factor)


class _Reader:
    """Numbers of a rope description, with errors that name key and file."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise CorruptWeights(f"{self.path}: rope key {key!r} must be a positive number, got {value!r}")
        return float(value)
