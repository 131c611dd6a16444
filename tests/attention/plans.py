"""Brute-force plans for tests: sequences with slots of their own or shared prefixes, no radix tree."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import ramet.model_io
from ramet.model_io import CHUNK_TOKENS, ModelInput, ModelOutput, ModelRunner, Sampling, Segments


@dataclass(frozen=True)
class Sequence:
    """Token ids and the slot of each position. Sequences share a prefix by sharing its slots."""

    token_ids: list[int]
    slots: list[int]


@dataclass(frozen=True)
class Step:
    """Compute the positions ``begin .. end - 1`` of a sequence."""

    sequence: Sequence
    begin: int
    end: int


def sampling_of(rows: Seq[int], **given) -> Sampling:
    """Greedy sampling of some rows, with any of the arrays replaced."""
    n = len(rows)
    arrays = {
        "rows": np.array(rows, dtype=np.int32),
        "temperature": np.zeros(n, dtype=np.float32),
        "top_k": np.zeros(n, dtype=np.int32),
        "top_p": np.ones(n, dtype=np.float32),
        "min_p": np.zeros(n, dtype=np.float32),
        "seeds": np.arange(n, dtype=np.uint64),
        "positions": np.zeros(n, dtype=np.int64),
        "num_top_logprobs": np.full(n, -1, dtype=np.int32),
    }
    return Sampling(**(arrays | given))


def segments_of(steps: Seq[Step]) -> Segments:
    """One segment per (run of neighbouring steps, chunk of positions they read from the same slots)."""
    begins = np.cumsum([0] + [step.end - step.begin for step in steps])
    found = []  # (first position, row begin, row end, slots)
    longest = max(step.end for step in steps)
    for first in range(0, longest, CHUNK_TOKENS):
        for index, step in enumerate(steps):
            slots = step.sequence.slots[first : min(first + CHUNK_TOKENS, step.end)]
            # Rows of the step before the chunk do not attend to it
            row = int(begins[index]) + max(first - step.begin, 0)
            row_end = int(begins[index + 1])
            if row >= row_end:
                continue
            last = found[-1] if found else None
            if last and last[0] == first and last[2] == row and last[3] == slots:
                found[-1] = (first, last[1], row_end, slots)
            else:
                found.append((first, row, row_end, slots))
    return Segments(
        row_begin=np.array([f[1] for f in found], dtype=np.int32),
        row_end=np.array([f[2] for f in found], dtype=np.int32),
        first_position=np.array([f[0] for f in found], dtype=np.int32),
        slot_offsets=np.cumsum([0] + [len(f[3]) for f in found]).astype(np.int32),
        slots=np.array([slot for f in found for slot in f[3]], dtype=np.int32),
    )


class Given(NamedTuple):
    """Everything a runner is given for one step."""

    model_input: ModelInput
    sampling: Sampling


def given(
    steps: Seq[Step],
    sampling: Sampling | None = None,
    score_rows: Seq[int] = (),
    score_token_ids: Seq[int] = (),
) -> Given:
    """A step over all rows; by default the last row of each is sampled greedily."""

    def joined(values) -> np.ndarray:
        return np.concatenate(values).astype(np.int32)

    if sampling is None:
        sampling = sampling_of(np.cumsum([step.end - step.begin for step in steps]) - 1)
    scored = np.array(score_rows, dtype=np.int32)
    model_input = ModelInput(
        input_ids=joined([step.sequence.token_ids[step.begin : step.end] for step in steps]),
        positions=joined([np.arange(step.begin, step.end) for step in steps]),
        slot_ids=joined([step.sequence.slots[step.begin : step.end] for step in steps]),
        segments=segments_of(steps),
        logit_rows=np.unique(np.concatenate((sampling.rows, scored))),
        score_rows=scored,
        score_token_ids=np.array(score_token_ids, dtype=np.int32),
    )
    return Given(model_input, sampling)


def model_input(steps: Seq[Step]) -> ModelInput:
    """The rows of a step whose last row of each sequence is sampled."""
    return given(steps).model_input


def execute(runner: ModelRunner, step: Given) -> ModelOutput:
    return ramet.model_io.execute(runner, *step)
