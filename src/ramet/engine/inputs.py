"""A `Batch` of nodes and requests as the arrays of a `ModelInput`."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import itemgetter
from typing import TypeAlias

import numpy as np

from ramet.model_io import (
    CHUNK_TOKENS,
    Int32Array,
    LogitBias,
    ModelInput,
    Penalties,
    Sampling,
    Segments,
    UInt32Array,
)
from ramet.radix import span_of
from ramet.scheduler.batch import Batch, Visit
from ramet.scheduler.request import Request

FEW_KEYS = 64 * CHUNK_TOKENS
"""Plans of no more keys are cut in plain Python. The caches of a CPU are full of weights between two steps,
and each NumPy function has to be fetched anew: 0.16 ms of a lone request's 4.5 ms with a 135M model."""

_Facts: TypeAlias = tuple[int, int, int, int, int, int]
"""Of a visit: where its run begins and how long it is; its first row, the row after all at and below it, the
row after its own; the position of the first of its own that is no probe."""


def build_model_input(batch: Batch) -> ModelInput:
    """The arrays of the rows of one step."""
    computed = [visit.rows for visit in batch.visits if visit.rows is not None]
    return ModelInput(
        input_ids=np.concatenate([rows.take(rows.node.key) for rows in computed]),
        positions=np.fromiter(
            chain.from_iterable(rows.positions for rows in computed), np.int32, batch.num_rows
        ),
        slot_ids=np.concatenate([rows.take(span_of(rows.node).slots) for rows in computed]),
        segments=_segments(batch.visits),
        logit_rows=np.array(
            sorted({point.row for point in batch.samples} | {point.row for point in batch.scores}), np.int32
        ),
        score_rows=np.array([point.row for point in batch.scores], dtype=np.int32),
        score_token_ids=np.array(
            [point.request.token_ids[point.position + 1] for point in batch.scores], dtype=np.int32
        ),
    )


def _segments(visits: list[Visit]) -> Segments:
    """The attention plan: one walk over the visited nodes, parents first.

    Chunks are cut at absolute positions, so one that spans a branching point belongs to the branch: a node
    takes the slots of the unfinished chunk above it along, and a finished one is shared by all rows below.
    """
    runs: list[Int32Array] = []  # per visit: the slots from where its first chunk begins to where it ends
    facts: list[_Facts] = []
    probed: dict[int, Sequence[int]] = {}
    for index, visit in enumerate(visits):
        node, rows = visit.node, visit.rows
        slots, num_own, stretch = span_of(node).slots, 0, node.end
        if rows is not None:
            slots = slots[: rows.end]  # those behind its rows hold nothing yet; no row attends to them
            num_own, stretch = rows.num_rows, node.start + rows.begin
            if rows.probes:
                probed[index] = rows.positions
        above = node.start % CHUNK_TOKENS
        if above:
            slots = np.concatenate((runs[visit.parent][-above:], slots))
        runs.append(slots)
        first_row = visit.first_row
        facts.append((node.start - above, len(slots), first_row, visit.end_row, first_row + num_own, stretch))
    cut = _cut_few if sum(map(len, runs)) <= FEW_KEYS else _cut_many
    return cut(runs, facts, probed)


def _cut_few(runs: list[Int32Array], facts: list[_Facts], probed: dict[int, Sequence[int]]) -> Segments:
    """The chunks of runs that any row reads, in order of position.

    ``probed`` has the positions of a visit's own rows, if there are probes among them.
    """
    chunks: list[tuple[int, int, int, Int32Array]] = []  # first position, rows from and to, slots
    for index, (begin, length, first_row, visit_end, own_end, stretch_begin) in enumerate(facts):
        positions = probed.get(index)
        for within in range(0, length, CHUNK_TOKENS):
            position, slots = begin + within, runs[index][within : within + CHUNK_TOKENS]
            # Rows before the chunk do not see it
            if positions is None:
                begin_row = first_row + max(position - stretch_begin, 0)
            else:
                begin_row = first_row + bisect_left(positions, position)
            # All rows below read a whole chunk; an unfinished one they take along
            end_row = visit_end if len(slots) == CHUNK_TOKENS else own_end
            if begin_row < end_row:
                chunks.append((position, begin_row, end_row, slots))
    chunks.sort(key=itemgetter(0))  # stable: rows ascend among chunks of one position
    first_position, row_begin, row_end, slots_of = zip(*chunks, strict=True)
    return Segments(
        row_begin=np.array(row_begin, dtype=np.int32),
        row_end=np.array(row_end, dtype=np.int32),
        first_position=np.array(first_position, dtype=np.int32),
        slot_offsets=np.array([0, *accumulate(map(len, slots_of))], dtype=np.int32),
        slots=np.concatenate(slots_of),
    )


def _cut_many(runs: list[Int32Array], facts: list[_Facts], probed: dict[int, Sequence[int]]) -> Segments:
    """`_cut_few` with work per array where that has work per chunk."""
    begin, length, visit_row, visit_end, own_end, stretch_begin = np.array(facts, dtype=np.int32).T

    # One line per chunk of a run. Lines have room for a whole chunk, so that they can be sorted as they are.
    num_chunks = -(-length // CHUNK_TOKENS)
    first_chunk = np.cumsum(num_chunks, dtype=np.int32) - num_chunks
    lines = np.empty((int(num_chunks.sum()), CHUNK_TOKENS), dtype=np.int32)
    flat = lines.reshape(-1)
    for run, place in zip(runs, (first_chunk * CHUNK_TOKENS).tolist(), strict=True):
        flat[place : place + len(run)] = run
    of_visit = np.repeat(np.arange(len(runs), dtype=np.int32), num_chunks)
    within = (np.arange(len(lines), dtype=np.int32) - first_chunk[of_visit]) * CHUNK_TOKENS
    position = begin[of_visit] + within
    size = np.minimum(length[of_visit] - within, CHUNK_TOKENS)
    row_begin = visit_row[of_visit] + np.maximum(position - stretch_begin[of_visit], 0)
    for index, positions in probed.items():
        some = slice(int(first_chunk[index]), int(first_chunk[index] + num_chunks[index]))
        row_begin[some] = visit_row[index] + np.searchsorted(positions, position[some])
    row_end = np.where(size == CHUNK_TOKENS, visit_end[of_visit], own_end[of_visit])
    order = np.flatnonzero(row_begin < row_end)
    order = order[np.argsort(position[order], kind="stable")]  # rows ascend among chunks of one position
    size = size[order]
    return Segments(
        row_begin=row_begin[order],
        row_end=row_end[order],
        first_position=position[order],
        slot_offsets=np.concatenate(([0], np.cumsum(size))).astype(np.int32),
        slots=lines[order][np.arange(CHUNK_TOKENS) < size[:, None]],
    )


def build_sampling(batch: Batch, vocab_size: int) -> Sampling:
    """What a step draws from so many logits, as its requests stand now."""
    points = batch.samples + batch.compared
    requests = [point.request for point in points]
    params = [request.params for request in requests]
    return Sampling(
        rows=np.array([point.row for point in points], dtype=np.int32),
        temperature=np.array([p.temperature for p in params], dtype=np.float32),
        top_k=np.array([max(p.top_k, 0) for p in params], dtype=np.int32),
        top_p=np.array([p.top_p for p in params], dtype=np.float32),
        min_p=np.array([p.min_p for p in params], dtype=np.float32),
        seeds=np.array([request.seed for request in requests], dtype=np.uint64),
        positions=np.array([point.position + 1 for point in points], dtype=np.int64),
        num_top_logprobs=np.array([-1 if p.logprobs is None else p.logprobs for p in params], dtype=np.int32),
        penalties=_penalties(requests),
        bias=_bias(requests, vocab_size),
        bitmask=_bitmask(requests, vocab_size),
    )


def _bitmask(requests: list[Request], vocab_size: int) -> UInt32Array | None:
    if all(request.matcher is None for request in requests):
        return None
    bitmask = np.empty((len(requests), -(-vocab_size // 32)), dtype=np.uint32)
    for request, row in zip(requests, bitmask, strict=True):
        request.fill_bitmask(row)
    return bitmask


def _penalties(requests: list[Request]) -> Penalties | None:
    if not any(request.penalizes for request in requests):
        return None
    penalized = [request.penalized for request in requests]
    sizes = [len(tokens) for tokens in penalized]
    params = [request.params for request in requests]
    return Penalties(
        repetition=np.array([p.repetition_penalty for p in params], dtype=np.float32),
        frequency=np.array([p.frequency_penalty for p in params], dtype=np.float32),
        presence=np.array([p.presence_penalty for p in params], dtype=np.float32),
        entry_sample=np.repeat(np.arange(len(requests), dtype=np.int32), sizes),
        entry_token=np.fromiter(chain.from_iterable(penalized), np.int32, sum(sizes)),
        entry_output_count=np.fromiter(
            chain.from_iterable(tokens.values() for tokens in penalized), np.int32, sum(sizes)
        ),
    )


def _bias(requests: list[Request], vocab_size: int) -> LogitBias | None:
    """What callers want added to logits, and bans of whatever would end a request before ``min_tokens``."""
    biases = [_bias_of(request, vocab_size) for request in requests]
    if not any(biases):
        return None
    sizes = [len(bias) for bias in biases]
    tokens, values = zip(*chain.from_iterable(biases), strict=True)
    return LogitBias(
        entry_sample=np.repeat(np.arange(len(requests), dtype=np.int32), sizes),
        entry_token=np.array(tokens, dtype=np.int32),
        entry_value=np.array(values, dtype=np.float32),
    )


def _bias_of(request: Request, vocab_size: int) -> tuple[tuple[int, float], ...]:
    banned = request.banned_token_ids
    if not banned:
        return request.params.logit_bias
    # A tokenizer may know more tokens than the model; those are never drawn
    bans = ((token_id, -math.inf) for token_id in sorted(banned) if token_id < vocab_size)
    return (*request.params.logit_bias, *bans)
