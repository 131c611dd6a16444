"""The rotary frequencies of a model, stretched as its configuration says."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ramet.errors import UnsupportedModel
from ramet.models.config import ModelConfig, RopeScaling


def rotary_frequencies(config: ModelConfig) -> tuple[NDArray[np.float64], float]:
    """Radians per position, ``[head_dim / 2]`` float64, and the magnitude of cosines and sines.

    Raises:
        UnsupportedModel: the scaling does not fit the model.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies, 1.0
    if scaling.kind == "linear":
        return frequencies / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling), 1.0
    if scaling.kind == "yarn":
        return _yarn(frequencies, scaling, config), scaling.attention_factor
    divisors = np.array(scaling.frequency_divisors, dtype=np.float64)
    if divisors.shape != frequencies.shape:
        raise UnsupportedModel(
            f"rope_freqs.weight has {divisors.size} values, but head_dim {config.head_dim} needs "
            f"{frequencies.size}"
        )
    if not (divisors > 0).all():
        raise UnsupportedModel(
            f"rope_freqs.weight must hold positive values, the smallest is {divisors.min()}"
        )
    return frequencies / divisors, 1.0


def _llama3(frequencies: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    """Wavelengths that fit the trained context many times stay, those that hardly fit are stretched."""
    turns = frequencies * scaling.original_context_length / (2 * math.pi)  # over the trained context
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return frequencies * kept + frequencies / scaling.factor * (1 - kept)


def _yarn(frequencies: NDArray[np.float64], scaling: RopeScaling, config: ModelConfig) -> NDArray[np.float64]:
    """A linear ramp over the index of the frequency, between two numbers of turns (arXiv 2309.00071)."""

    def index_of(turns: float) -> float:
        wavelength = scaling.original_context_length / (turns * 2 * math.pi)
        return config.head_dim * math.log(wavelength) / (2 * math.log(config.rope_theta))

    low = max(math.floor(index_of(scaling.beta_fast)), 0)
    high = min(math.ceil(index_of(scaling.beta_slow)), config.head_dim - 1)
    index = np.arange(frequencies.size, dtype=np.float64)
    stretched = np.clip((index - low) / max(high - low, 1e-3), 0.0, 1.0)
    return frequencies * (1 - stretched) + frequencies / scaling.factor * stretched
