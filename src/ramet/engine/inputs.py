"""A `Batch` of nodes and requests as the arrays of a `ModelInput`."""

from __future__ import annotations

from itertools import chain

import numpy as np

from ramet.model_io import (
    CHUNK_TOKENS,
    Int32Array,
    Int64Array,
    LogitBias,
    ModelInput,
    Penalties,
    Sampling,
    Segments,
)
from ramet.radix import span_of
from ramet.scheduler.batch import Batch, LogitsPoint, NodeRows
from ramet.scheduler.request import Request


def build_model_input(batch: Batch) -> ModelInput:
    """The arrays of one step."""
    input_ids = np.empty(batch.num_rows, dtype=np.int32)
    positions = np.empty(batch.num_rows, dtype=np.int32)
    slot_ids = np.empty(batch.num_rows, dtype=np.int32)
    for visit in batch.visits:
        if visit.rows is None:
            continue
        rows, offsets = visit.rows, _offsets(visit.rows)
        where = slice(rows.first_row, rows.first_row + len(offsets))
        input_ids[where] = rows.node.key[offsets]
        positions[where] = offsets + rows.node.start
        slot_ids[where] = span_of(rows.node).slots[offsets]
    return ModelInput(
        input_ids=input_ids,
        positions=positions,
        slot_ids=slot_ids,
        segments=_segments(batch, positions),
        sampling=_sampling(batch.samples),
        score_rows=np.array([point.row for point in batch.scores], dtype=np.int32),
        score_token_ids=np.array(
            [point.request.token_ids[point.position + 1] for point in batch.scores], dtype=np.int32
        ),
    )


def _offsets(rows: NodeRows) -> Int32Array:
    """The tokens of a node that have rows, as offsets into it, ascending."""
    stretch = np.arange(rows.begin, rows.end, dtype=np.int32)
    return np.concatenate([np.array([*rows.probes], dtype=np.int32), stretch]) if rows.probes else stretch


def _segments(batch: Batch, positions: Int32Array) -> Segments:
    """The attention plan: one walk over the visited nodes, parents first.

    Chunks are cut at absolute positions, so one that spans a branching point belongs to the branch: a node
    carries the slots of the unfinished chunk above it along, and a finished one is shared by all rows below.
    """
    nothing = np.empty(0, dtype=np.int32)
    carried: list[Int32Array] = []  # per visit: the slots of the unfinished chunk at its end
    # Per visit: its segments by position. All but the last are whole chunks, so their slots are one run.
    first_positions, row_begins, row_ends = [nothing], [nothing], [nothing]
    runs: list[Int32Array] = []
    for visit in batch.visits:
        node, above = visit.node, carried[visit.parent] if visit.parent >= 0 else nothing
        # Slots behind the rows of this step hold nothing yet; no row attends to them.
        span_slots = span_of(node).slots[: visit.rows.end if visit.rows is not None else len(node)]
        slots = np.concatenate([above, span_slots]) if len(above) else span_slots
        num_whole = len(slots) // CHUNK_TOKENS
        carried.append(slots[num_whole * CHUNK_TOKENS :])
        own_end = visit.first_row + (visit.rows.num_rows if visit.rows is not None else 0)
        starts = np.arange(num_whole + 1, dtype=np.int32) * CHUNK_TOKENS + (node.start - len(above))
        begins = visit.first_row + np.searchsorted(positions[visit.first_row : own_end], starts)
        ends = np.full(num_whole + 1, visit.end_row, dtype=np.int32)
        ends[num_whole] = own_end  # the unfinished chunk: the node's own rows in it
        count = np.count_nonzero(begins < ends)  # the first ones: ``begins`` ascend
        first_positions.append(starts[:count])
        row_begins.append(begins[:count].astype(np.int32))
        row_ends.append(ends[:count])
        runs.append(slots[: count * CHUNK_TOKENS])
    first_position, row_begin = np.concatenate(first_positions), np.concatenate(row_begins)
    order = np.lexsort((row_begin, first_position))
    slots, lengths = _gather_chunks(runs, order)
    return Segments(
        row_begin=row_begin[order],
        row_end=np.concatenate(row_ends)[order],
        first_position=first_position[order],
        slot_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        slots=slots,
    )


def _gather_chunks(runs: list[Int32Array], order: Int64Array) -> tuple[Int32Array, Int64Array]:
    """Cut runs of slots into chunks and put these in order; returns them joined, and their lengths."""
    chunks = np.empty((len(order), CHUNK_TOKENS), dtype=np.int32)
    lengths = np.full(len(order), CHUNK_TOKENS, dtype=np.int64)
    at = 0
    for run in runs:
        chunks.reshape(-1)[at * CHUNK_TOKENS : at * CHUNK_TOKENS + len(run)] = run
        at += -(-len(run) // CHUNK_TOKENS)
        if len(run) % CHUNK_TOKENS:
            lengths[at - 1] = len(run) % CHUNK_TOKENS
    chunks, lengths = chunks[order], lengths[order]
    return chunks[np.arange(CHUNK_TOKENS) < lengths[:, np.newaxis]], lengths


def _sampling(points: list[LogitsPoint]) -> Sampling:
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
        bias=_bias(requests),
    )


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


def _bias(requests: list[Request]) -> LogitBias | None:
    """Tokens that may not be drawn: whatever would end a request before its ``min_tokens``."""
    banned = [
        (index, token_id)
        for index, request in enumerate(requests)
        for token_id in sorted(request.stop_checker.banned_token_ids)
    ]
    if not banned:
        return None
    return LogitBias(
        entry_sample=np.array([index for index, _ in banned], dtype=np.int32),
        entry_token=np.array([token_id for _, token_id in banned], dtype=np.int32),
        entry_value=np.full(len(banned), -np.inf, dtype=np.float32),
    )
