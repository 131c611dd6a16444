"""From a model's files to a runner.

Invariant: importing this imports no torch; building a runner that computes with it does.
"""

from __future__ import annotations

from pathlib import Path

from ramet.config import ModelOptions
from ramet.model_io import ModelRunner
from ramet.models.config import ModelConfig
from ramet.models.stored import OnProgress, StoredWeights
from ramet.models.weights import load_model_config, open_weights


def build_runner(
    path: Path,
    options: ModelOptions,
    *,
    max_kv_tokens: int | None = None,
    on_progress: OnProgress | None = None,
) -> ModelRunner:
    """Load the model at ``path`` (a GGUF file or a Hugging Face folder) and make a runner of it.

    Args:
        path: where the model lies; ``options.model`` is not read.
        options: device and dtype.
        max_kv_tokens: slots of the KV pool; None sizes it to the memory (`choose_num_slots`).
        on_progress: called while the weights load.

    Raises:
        ModelError: the model is unknown, damaged, or does not fit the memory.
        InvalidRequest: an option has no meaning on this machine.
    """
    config = load_model_config(path)
    return runner_from_weights(
        config, open_weights(path, config), options, max_kv_tokens=max_kv_tokens, on_progress=on_progress
    )


def runner_from_weights(
    config: ModelConfig,
    weights: StoredWeights,
    options: ModelOptions,
    *,
    max_kv_tokens: int | None = None,
    on_progress: OnProgress | None = None,
) -> ModelRunner:
    """`build_runner` for weights that are open already."""
    # Imported here, not above: torch takes over a second to import, and not every runner needs it
    from ramet.runner.torch_build import build_torch_runner

    return build_torch_runner(config, weights, options, max_kv_tokens=max_kv_tokens, on_progress=on_progress)
