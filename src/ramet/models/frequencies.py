"""The rotary frequencies of a model, stretched as its configuration says."""

from __future__ import annotations

import math

import torch

from ramet.errors import UnsupportedModel
from ramet.models.config import ModelConfig, RopeScaling


def rotary_frequencies(config: ModelConfig) -> tuple[torch.Tensor, float]:
    """Radians per position, ``[head_dim / 2]`` float64, and the magnitude of cosines and sines.

    Raises:
        UnsupportedModel: the scaling does not fit the model.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
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
    divisors = torch.tensor(scaling.frequency_divisors, dtype=torch.float64)
    if divisors.shape != frequencies.shape:
        raise UnsupportedModel(
            f"rope_freqs.weight has {divisors.numel()} values, but head_dim {config.head_dim} needs "
            f"{frequencies.numel()}"
        )
    return frequencies / divisors, 1.0


def _llama3(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Wavelengths that fit the trained context many times stay, those that hardly fit are stretched."""
    turns = frequencies * scaling.original_context_length / (2 * math.pi)  # over the trained context
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0.0, 1.0)
    return frequencies * kept + frequencies / scaling.factor * (1 - kept)


def _yarn(frequencies: torch.Tensor, scaling: RopeScaling, config: ModelConfig) -> torch.Tensor:
    """A linear ramp over the index of the frequency, between two numbers of turns (arXiv 2309.00071)."""

    def index_of(turns: float) -> float:
        wavelength = scaling.original_context_length / (turns * 2 * math.pi)
        return config.head_dim * math.log(wavelength) / (2 * math.log(config.rope_theta))

    low = max(math.floor(index_of(scaling.beta_fast)), 0)
    high = min(math.ceil(index_of(scaling.beta_slow)), config.head_dim - 1)
    index = torch.arange(frequencies.shape[0], dtype=torch.float64)
    stretched = ((index - low) / max(high - low, 1e-3)).clamp(0.0, 1.0)
    return frequencies * (1 - stretched) + frequencies / scaling.factor * stretched
