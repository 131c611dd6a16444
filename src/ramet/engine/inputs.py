"""A `Batch` of nodes and requests as the arrays of a `ModelInput`."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate, chain
from operator import itemgetter

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
from ramet.scheduler.batch import Batch, LogitsPoint, Visit
from ramet.scheduler.request import Request


def build_model_input(batch: Batch, vocab_size: int) -> ModelInput:
    """The arrays of one step of a model with so many logits."""
    computed = [visit.rows for visit in batch.visits if visit.rows is not None]
    return ModelInput(
        input_ids=np.concatenate([rows.take(rows.node.key) for rows in computed]),
        positions=np.fromiter(
            chain.from_iterable(rows.positions for rows in computed), np.int32, batch.num_rows
        ),
        slot_ids=np.concatenate([rows.take(span_of(rows.node).slots) for rows in computed]),
        segments=_segments(batch.visits),
        sampling=_sampling(batch.samples + batch.compared, vocab_size),
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
    chunks: list[tuple[int, int, int, Int32Array]] = []  # first position, rows from and to, slots
    for visit in visits:
        node, rows = visit.node, visit.rows
        own_positions = rows.positions if rows is not None else ()
        own_end = visit.first_row + len(own_positions)
        slots = span_of(node).slots
        if rows is not None:  # slots behind its rows hold nothing yet; no row attends to them
            slots = slots[: rows.end]
        above = node.start % CHUNK_TOKENS
        if above:
            slots = np.concatenate((runs[visit.parent][-above:], slots))
        runs.append(slots)
        begin, end = node.start - above, node.start - above + len(slots)
        for position in range(begin, end, CHUNK_TOKENS):
            first_row = visit.first_row + bisect_left(own_positions, position)
            # All rows below read a whole chunk here; an unfinished one they take along.
            end_row = visit.end_row if position + CHUNK_TOKENS <= end else own_end
            if first_row < end_row:
                chunk = slots[position - begin : position - begin + CHUNK_TOKENS]
                chunks.append((position, first_row, end_row, chunk))
    chunks.sort(key=itemgetter(0))  # stable: rows ascend among chunks of one position
    first_position, row_begin, row_end, slots_of = zip(*chunks, strict=True)
    return Segments(
        row_begin=np.array(row_begin, dtype=np.int32),
        row_end=np.array(row_end, dtype=np.int32),
        first_position=np.array(first_position, dtype=np.int32),
        slot_offsets=np.array([0, *accumulate(map(len, slots_of))], dtype=np.int32),
        slots=np.concatenate(slots_of),
    )


def _sampling(points: list[LogitsPoint], vocab_size: int) -> Sampling:
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
