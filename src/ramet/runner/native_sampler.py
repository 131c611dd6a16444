"""Hidden states in; tokens, logprobs and scores out: what `sampler` does, by the native kernels.

Invariant: what a sample gets depends on its row of logits and its own parameters alone.
Must not know: requests, text, torch.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ramet.model_io import Float32Array, ModelInput, ModelOutput, Sampling
from ramet.runner.uniform import uniform

if TYPE_CHECKING:
    from ramet.kernels import _cpu

BLOCK_BYTES = 64 * 2**20  # bounds the logits computed at a time, whose memory is kept for the next step


class NativeSampler:
    """Draws and scores on a team of threads. Calls from several threads take turns."""

    def __init__(self, kernels: ModuleType, team: _cpu.Team, isa: str) -> None:
        """
        Args:
            kernels: the extension `ramet.kernels._cpu`.
            team: the threads that share the work.
            isa: the instruction set, one of ``kernels.supported_isas()``.
        """
        self._sampler: _cpu.Sampler = kernels.Sampler(team, isa, BLOCK_BYTES)

    def sample(
        self, decoder: _cpu.Decoder, hidden: Float32Array, model_input: ModelInput, sampling: Sampling
    ) -> ModelOutput:
        """Draw a token for every sample and score the known tokens.

        Logits are computed once for each row, in blocks of bounded size. Greedy samples that ask for nothing
        else take the likeliest token, and nobody writes the logits of their rows.

        Args:
            decoder: computes logits.
            hidden: ``[len(model_input.logit_rows), hidden_size]`` float32.
            model_input: of the step.
            sampling: what to draw.

        Raises:
            ValueError: arrays do not fit each other, or a token id is not in the vocabulary.
            TypeError: an array has another type or number of dimensions.
        """
        output = empty_output(sampling, len(model_input.score_rows))
        self._sampler.sample(
            decoder,
            hidden,
            model_input.logit_rows,
            sampling,
            uniforms_of(sampling),
            model_input.score_rows,
            model_input.score_token_ids,
            output,
        )
        return output


def empty_output(sampling: Sampling, num_scores: int) -> ModelOutput:
    """Room for what a step produces."""
    num_samples = len(sampling.rows)
    # Python's max: the code of NumPy's is in no cache any more when a step comes to it
    top_shape = (num_samples, max((0, *sampling.num_top_logprobs.tolist())))
    return ModelOutput(
        token_ids=np.empty(num_samples, dtype=np.int32),
        logprobs=np.empty(num_samples, dtype=np.float32),
        top_token_ids=np.empty(top_shape, dtype=np.int32),
        top_logprobs=np.empty(top_shape, dtype=np.float32),
        score_logprobs=np.empty(num_scores, dtype=np.float32),
    )


def uniforms_of(sampling: Sampling) -> NDArray[np.float64]:
    """The number that each random draw inverts; greedy samples need none and get 0."""
    uniforms = np.zeros(len(sampling.rows))
    random = sampling.temperature.nonzero()[0]
    if len(random):
        uniforms[random] = uniform(sampling.seeds[random], sampling.positions[random])
    return uniforms
