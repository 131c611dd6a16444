"""Logits in; tokens, logprobs and scores out, by the native kernels: what `sampler` does, without torch.

Invariant: what a sample gets depends on its row of logits and its own parameters alone.
Must not know: how logits were computed, requests, text, torch.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ramet.model_io import Float32Array, Int32Array, ModelOutput, Sampling
from ramet.runner.uniform import uniform

if TYPE_CHECKING:
    from ramet.kernels import _cpu

BLOCK_BYTES = 64 * 2**20  # bounds the logits held at a time


class LogitsOf(Protocol):
    """Computes logits of neighbouring rows: returns those of some, finds the likeliest tokens of all."""

    def __call__(self, begin: int, wanted: Int32Array, likeliest: Int32Array) -> Float32Array:
        """
        Args:
            begin: the first row.
            wanted: ``[num_wanted]`` int32, counted from ``begin``, ascending, each once.
            likeliest: ``[num_rows]`` int32, written to: the first token with the largest logit; -1 if that is
                not finite or a logit is not a number.

        Returns:
            ``[num_wanted, vocab_size]`` float32 in C order.
        """


class NativeSampler:
    """Draws and scores on a team of threads. Calls from several threads take turns."""

    def __init__(self, kernels: ModuleType, team: _cpu.Team, isa: str, vocab_size: int) -> None:
        """
        Args:
            kernels: the extension `ramet.kernels._cpu`.
            team: the threads that share the work.
            isa: the instruction set, one of ``kernels.supported_isas()``.
            vocab_size: columns of the logits.
        """
        self._sampler: _cpu.Sampler = kernels.Sampler(team, isa)
        self._vocab_size = vocab_size

    def sample(
        self,
        logits_of: LogitsOf,
        rows: Int32Array,
        sampling: Sampling,
        score_rows: Int32Array,
        score_token_ids: Int32Array,
    ) -> ModelOutput:
        """Draw a token for every sample and score the known tokens.

        Logits are computed once for each row, in blocks of bounded size. Greedy samples that ask for nothing
        else take the likeliest token, and nobody writes the logits of their rows.

        Args:
            logits_of: computes the logits of some of the rows.
            rows: ``[num_rows]`` int32: all rows that are sampled or scored, ascending, each once.
            sampling: what to draw.
            score_rows: ``[num_scores]`` int32: the row that scores each known token.
            score_token_ids: ``[num_scores]`` int32: the token.

        Raises:
            ValueError: arrays do not fit each other, or a token id is not in the vocabulary.
        """
        num_samples, num_scores = len(sampling.rows), len(score_rows)
        # Python's max: the code of NumPy's is in no cache any more when a step comes to it
        top_shape = (num_samples, max((0, *sampling.num_top_logprobs.tolist())))
        # Filled below: every sample and score belongs to a row of exactly one block
        output = ModelOutput(
            token_ids=np.empty(num_samples, dtype=np.int32),
            logprobs=np.empty(num_samples, dtype=np.float32),
            top_token_ids=np.empty(top_shape, dtype=np.int32),
            top_logprobs=np.empty(top_shape, dtype=np.float32),
            score_logprobs=np.empty(num_scores, dtype=np.float32),
        )
        sampler, uniforms = self._sampler, _uniforms(sampling)
        block_rows = max(BLOCK_BYTES // (4 * self._vocab_size), 1)
        for begin in range(0, len(rows), block_rows):
            block = rows[begin : begin + block_rows]
            wanted, likeliest = np.empty_like(block), np.empty_like(block)
            wanted = wanted[: sampler.find_wanted(block, sampling, score_rows, wanted)]
            logits = logits_of(begin, wanted, likeliest)
            sampler.sample(
                block, likeliest, wanted, logits, sampling, uniforms, score_rows, score_token_ids, output
            )
        return output


def _uniforms(sampling: Sampling) -> NDArray[np.float64]:
    """The number that each random draw inverts; greedy samples need none and get 0."""
    uniforms = np.zeros(len(sampling.rows))
    random = sampling.temperature.nonzero()[0]
    if len(random):
        uniforms[random] = uniform(sampling.seeds[random], sampling.positions[random])
    return uniforms
