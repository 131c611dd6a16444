"""From a model's files to a runner.

Invariant: importing this imports no torch; building a runner that computes with it does.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType

from ramet.config import ModelOptions, SchedulerConfig
from ramet.errors import UnsupportedFeature
from ramet.kernels import load_native, why_unavailable
from ramet.model_io import ModelRunner
from ramet.models.config import ModelConfig
from ramet.models.dummy_weights import DummyWeights
from ramet.models.native import why_unsupported
from ramet.models.stored import OnProgress, StoredWeights
from ramet.models.weights import load_model_config, open_weights
from ramet.runner.machine import has_nvidia_driver
from ramet.runner.native_build import build_native_runner

logger = logging.getLogger(__name__)

_STEPS = SchedulerConfig()


def build_runner(
    path: Path,
    options: ModelOptions,
    *,
    max_kv_tokens: int | None = None,
    steps: SchedulerConfig = _STEPS,
    on_progress: OnProgress | None = None,
) -> ModelRunner:
    """Load the model at ``path`` (a GGUF file or a Hugging Face folder) and make a runner of it.

    Args:
        path: where the model lies; ``options.model`` is not read.
        options: device, dtypes, kernels and threads.
        max_kv_tokens: slots of the KV pool; None sizes it to the memory (`ramet.runner.memory`).
        steps: what a step may hold: on a GPU the largest one is measured.
        on_progress: called while the weights load.

    Raises:
        ModelError: the model is unknown, damaged, or does not fit the memory.
        InvalidRequest: an option has no meaning on this machine.
    """
    config = load_model_config(path)
    weights = DummyWeights(config) if options.load_format == "dummy" else open_weights(path, config)
    return runner_from_weights(
        config, weights, options, max_kv_tokens=max_kv_tokens, steps=steps, on_progress=on_progress
    )


def runner_from_weights(
    config: ModelConfig,
    weights: StoredWeights,
    options: ModelOptions,
    *,
    max_kv_tokens: int | None = None,
    steps: SchedulerConfig = _STEPS,
    on_progress: OnProgress | None = None,
) -> ModelRunner:
    """`build_runner` for weights that are open already."""
    if not _computes_on_a_gpu(options):
        kernels = _native_kernels(config, options)
        if kernels is not None:
            return build_native_runner(
                config, weights, options, kernels, max_kv_tokens=max_kv_tokens, on_progress=on_progress
            )
    # Imported here, not above: torch takes over a second to import, and not every runner needs it
    from ramet.runner.torch_build import build_torch_runner

    return build_torch_runner(
        config, weights, options, max_kv_tokens=max_kv_tokens, steps=steps, on_progress=on_progress
    )


def _computes_on_a_gpu(options: ModelOptions) -> bool:
    if options.kernels == "native" and options.device == "cuda":
        raise UnsupportedFeature("kernels='native' computes on a CPU; use device='cpu', or other kernels")
    if options.device == "cpu":
        return False
    if options.device == "auto" and (options.kernels == "native" or not has_nvidia_driver()):
        return False
    from ramet.runner.torch_build import choose_device  # torch knows whether it can use what is there

    return choose_device(options.device).type == "cuda"


def _native_kernels(config: ModelConfig, options: ModelOptions) -> ModuleType | None:
    """The extension to compute with, or None for the reference in torch, which is logged."""
    if options.kernels == "torch":
        return None
    kernels = load_native()
    reason = why_unavailable() if kernels is None else why_unsupported(config)
    if reason is None:
        return kernels
    if options.kernels == "native":
        raise UnsupportedFeature(f"kernels='native' cannot be used: {reason}")
    logger.warning("computing with the slow torch reference, not the native kernels: %s", reason)
    return None
