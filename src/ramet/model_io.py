"""Seam 2, between decisions about tokens and tensor arithmetic: NumPy in, NumPy out.

A *row* is one token at one position whose hidden state is computed in this step. Rows stand in
depth-first order of the radix tree, so the rows below any node are one contiguous range. There are no
phases: prefill, decode, probes and scored continuations are all rows.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
UInt32Array = NDArray[np.uint32]
UInt64Array = NDArray[np.uint64]
Float32Array = NDArray[np.float32]

CHUNK_TOKENS = 64
"""Attention is cut at multiples of this many positions, whatever the tree looks like (see `Segments`)."""


class Segments(msgspec.Struct, frozen=True, eq=False):
    """The attention plan: which rows read which keys, in `CHUNK_TOKENS` pieces of absolute position.

    Segment ``i`` covers the positions ``first_position[i] .. first_position[i] + length - 1`` (at most
    CHUNK_TOKENS of them; ``first_position`` is a multiple of it) along one path of the tree, whose
    keys and values lie in ``slots[slot_offsets[i]:slot_offsets[i + 1]]``. The rows
    ``row_begin[i] .. row_end[i] - 1`` attend to those of its keys whose position does not exceed
    their own. Every (row, chunk of its context) pair is in exactly one segment, and segments stand in order
    of ``first_position``. Partial results are merged by log-sum-exp in that order. A chunk is
    reduced as if it always had CHUNK_TOKENS keys, so a row's bits depend on its context alone.
    """

    row_begin: Int32Array  # [num_segments]
    row_end: Int32Array  # [num_segments]
    first_position: Int32Array  # [num_segments]
    slot_offsets: Int32Array  # [num_segments + 1]
    slots: Int32Array  # [total keys]


class Penalties(msgspec.Struct, frozen=True, eq=False):
    """Tokens already seen by samples that penalise them: a sparse matrix in coordinate form.

    Per sample: ``repetition`` (1 = off), ``frequency`` and ``presence`` (0 = off). Per entry: the sample,
    the token id, and how often it occurs in the output (0 if only in the prompt).
    """

    repetition: Float32Array  # [num_samples]
    frequency: Float32Array  # [num_samples]
    presence: Float32Array  # [num_samples]
    entry_sample: Int32Array  # [num_entries]
    entry_token: Int32Array  # [num_entries]
    entry_output_count: Int32Array  # [num_entries]


class LogitBias(msgspec.Struct, frozen=True, eq=False):
    """Values added to logits before sampling, in coordinate form; ``-inf`` bans a token."""

    entry_sample: Int32Array  # [num_entries]
    entry_token: Int32Array  # [num_entries]
    entry_value: Float32Array  # [num_entries]


class Sampling(msgspec.Struct, frozen=True, eq=False):
    """What to draw. Several samples may be drawn from the same row (``n > 1``).

    It may become known later than the rows: penalties and bitmasks follow from the tokens drawn before.

    A draw uses a counter-based generator keyed by (seed, position), so it depends on nothing else.
    Order: penalties, bias, bitmask, temperature, top-k, top-p, min-p.

    ``bitmask`` says which tokens a sample may draw: token ``t`` is allowed if bit ``t % 32`` (0 is the
    lowest) of word ``t // 32`` is set. A token that is not is never drawn, whatever its logit.
    """

    rows: Int32Array  # [num_samples] row of the logits
    temperature: Float32Array  # [num_samples] 0 = greedy
    top_k: Int32Array  # [num_samples] 0 = all
    top_p: Float32Array  # [num_samples]
    min_p: Float32Array  # [num_samples]
    seeds: UInt64Array  # [num_samples]
    positions: Int64Array  # [num_samples] position of the token to draw
    num_top_logprobs: Int32Array  # [num_samples] -1 = no logprobs wanted
    penalties: Penalties | None = None
    bias: LogitBias | None = None
    bitmask: UInt32Array | None = None  # [num_samples, ceil(vocab_size / 32)] None = all tokens allowed


class ModelInput(msgspec.Struct, frozen=True, eq=False):
    """The rows of one step. Position ``positions[i]`` of row ``i`` has its KV in ``slot_ids[i]``.

    A row whose KV is cached already (a probe) writes the same values to its own slot again. An id of
    ``-1 - k`` stands for the token of sample ``k`` of the step launched before, which may still be computed.
    """

    input_ids: Int32Array  # [num_rows]
    positions: Int32Array  # [num_rows]
    slot_ids: Int32Array  # [num_rows]
    segments: Segments
    logit_rows: Int32Array  # [num_logit_rows] the rows that are sampled or scored, ascending, each once
    score_rows: Int32Array  # [num_scores] row whose logits score a known token
    score_token_ids: Int32Array  # [num_scores] the token


class ModelOutput(msgspec.Struct, frozen=True, eq=False):
    """What a step produced, in the order of ``Sampling.rows`` and ``score_rows``.

    Logprobs are of the raw logits: before penalties, bias and temperature. ``logprobs`` is NaN where
    none was wanted; the columns of ``top_*`` are sorted, likeliest first, and go up to the largest number
    wanted. A token id of -1 means that the row's logits were not finite.
    """

    token_ids: Int32Array  # [num_samples]
    logprobs: Float32Array  # [num_samples]
    top_token_ids: Int32Array  # [num_samples, max_top]
    top_logprobs: Float32Array  # [num_samples, max_top]
    score_logprobs: Float32Array  # [num_scores]


class DrawnStep(Protocol):
    """A step whose samples have been ordered."""

    def collect(self) -> ModelOutput:
        """Wait for the results.

        Raises:
            EngineDead: the device failed; nothing can be computed any more.
        """
        ...


class LaunchedStep(Protocol):
    """A step whose rows have been ordered."""

    def draw(self, sampling: Sampling) -> DrawnStep:
        """Order samples of the step's `ModelInput.logit_rows`, and its scores. To be called once."""
        ...


class ModelRunner(Protocol):
    """Computes steps over a pool of KV slots. Knows nothing of requests, trees or text.

    Steps are computed in the order of their launch, each one after the one before it is drawn: a step reads
    the keys and values that earlier ones write.
    """

    @property
    def num_slots(self) -> int:
        """Slots in the KV pool."""
        ...

    @property
    def pool_bytes(self) -> int:
        """Memory the KV pool takes once all of it has been used."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int:
        """Most positions a sequence may have."""
        ...

    @property
    def kernels(self) -> str:
        """What computes, in a few words for people."""
        ...

    @property
    def is_asynchronous(self) -> bool:
        """Whether steps are computed while Python goes on, so that it pays to launch the next one early."""
        ...

    def launch(self, model_input: ModelInput) -> LaunchedStep:
        """Order all rows to be computed and their KV to be written.

        Raises:
            EngineDead: the runner has been closed, or its device failed.
        """
        ...

    def close(self) -> None:
        """Free the pool and the weights."""
        ...


def execute(runner: ModelRunner, model_input: ModelInput, sampling: Sampling) -> ModelOutput:
    """Compute one step from its beginning to its end."""
    return runner.launch(model_input).draw(sampling).collect()


class Finished(msgspec.Struct, frozen=True, eq=False):
    """A `DrawnStep` of a runner that computes while it is called."""

    output: ModelOutput

    def collect(self) -> ModelOutput:
        return self.output
