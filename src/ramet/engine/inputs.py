"""A `Batch` of nodes and requests as the arrays of a `ModelInput`."""

from __future__ import annotations

import numpy as np

from ramet.model_io import (
    CHUNK_TOKENS,
    Int32Array,
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
    return np.concatenate([np.array(rows.probes, dtype=np.int32), stretch]) if rows.probes else stretch


def _segments(batch: Batch, positions: Int32Array) -> Segments:
    """The attention plan: one walk over the visited nodes, parents first.

    Chunks are cut at absolute positions, so one that spans a branching point belongs to the branch: a node
    carries the slots of the unfinished chunk above it along, and a finished one is shared by all rows below.
    """
    pieces: list[tuple[int, int, int, Int32Array]] = []  # first position, row begin, row end, slots
    carried: list[Int32Array] = []  # per visit: the slots of the unfinished chunk at its end
    nothing = np.empty(0, dtype=np.int32)
    for visit in batch.visits:
        node, above = visit.node, carried[visit.parent] if visit.parent >= 0 else nothing
        # Slots behind the rows of this step hold nothing yet; no row attends to them.
        span_slots = span_of(node).slots[: visit.rows.end if visit.rows is not None else len(node)]
        slots = np.concatenate([above, span_slots]) if len(above) else span_slots
        first = node.start - len(above)
        num_whole = len(slots) // CHUNK_TOKENS
        carried.append(slots[num_whole * CHUNK_TOKENS :].copy())
        own_end = visit.first_row + (visit.rows.num_rows if visit.rows is not None else 0)
        own_positions = positions[visit.first_row : own_end]
        starts = np.arange(num_whole + 1, dtype=np.int32) * CHUNK_TOKENS + first
        row_begins = visit.first_row + np.searchsorted(own_positions, starts)
        for index in range(num_whole):
            if row_begins[index] < visit.end_row:
                chunk = slots[index * CHUNK_TOKENS : (index + 1) * CHUNK_TOKENS]
                pieces.append((int(starts[index]), int(row_begins[index]), visit.end_row, chunk))
        if row_begins[num_whole] < own_end:  # the unfinished chunk: the node's own rows in it
            pieces.append((int(starts[num_whole]), int(row_begins[num_whole]), own_end, carried[-1]))
    pieces.sort(key=lambda piece: piece[:2])
    return Segments(
        row_begin=np.array([piece[1] for piece in pieces], dtype=np.int32),
        row_end=np.array([piece[2] for piece in pieces], dtype=np.int32),
        first_position=np.array([piece[0] for piece in pieces], dtype=np.int32),
        slot_offsets=np.cumsum([0, *(len(piece[3]) for piece in pieces)], dtype=np.int32),
        slots=np.concatenate([piece[3] for piece in pieces]).astype(np.int32, copy=False),
    )


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
    samples, tokens, counts = [], [], []
    for index, request in enumerate(requests):
        if not request.penalizes:
            continue
        output_counts = request.output_counts
        seen = set(request.token_ids) if request.params.repetition_penalty != 1.0 else set(output_counts)
        for token_id in sorted(seen):
            samples.append(index)
            tokens.append(token_id)
            counts.append(output_counts.get(token_id, 0))
    params = [request.params for request in requests]
    return Penalties(
        repetition=np.array([p.repetition_penalty for p in params], dtype=np.float32),
        frequency=np.array([p.frequency_penalty for p in params], dtype=np.float32),
        presence=np.array([p.presence_penalty for p in params], dtype=np.float32),
        entry_sample=np.array(samples, dtype=np.int32),
        entry_token=np.array(tokens, dtype=np.int32),
        entry_output_count=np.array(counts, dtype=np.int32),
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
