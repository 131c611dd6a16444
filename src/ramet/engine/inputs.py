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
from ramet.radix import KVNode
from ramet.scheduler.batch import Batch, Visit
from ramet.scheduler.request import Request

FEW_KEYS = 64 * CHUNK_TOKENS
"""Plans of no more keys are cut in plain Python. The caches of a CPU are full of weights between two steps,
and each NumPy function has to be fetched anew: 0.1 ms in a lone request's step."""

_PADDING = [np.zeros(-size % CHUNK_TOKENS, dtype=np.int32) for size in range(CHUNK_TOKENS)]
"""What a chunk of so many tokens lacks to be whole."""


def build_model_input(batch: Batch) -> ModelInput:
    """The arrays of the rows of one step."""
    input_ids, positions, slot_ids = (np.empty(batch.num_rows, dtype=np.int32) for _ in range(3))
    for visit in batch.visits:
        node, row, end_row = visit.node, visit.first_row, visit.own_end_row
        if end_row - row == 1 and not visit.probes:  # as it is while text is generated: no arrays of one
            input_ids[row] = node.key.item(visit.begin)
            positions[row] = node.start + visit.begin
            slot_ids[row] = node.payload.slots.view.item(visit.begin)
        elif row < end_row:
            input_ids[row:end_row] = visit.take(node.key)
            positions[row:end_row] = visit.positions
            slot_ids[row:end_row] = visit.take(node.payload.slots.view)
    return ModelInput(
        input_ids=input_ids,
        positions=positions,
        slot_ids=slot_ids,
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
    """The attention plan of the visited nodes.

    Chunks are cut at absolute positions, so one that spans a branching point belongs to the branch: a node
    takes the slots of the unfinished chunk above it along, and a finished one is shared by all rows below.
    """
    return _plan_few(visits) if sum(visit.end for visit in visits) <= FEW_KEYS else _plan_many(visits)


def _plan_few(visits: list[Visit]) -> Segments:
    """The chunks that any row reads, in order of position."""
    chunks: list[tuple[int, int, int, Int32Array]] = []  # first position, rows from and to, slots
    for visit in visits:
        node, positions = visit.node, visit.positions
        run = node.payload.slots.view[: visit.end]  # what is behind holds nothing yet; no row attends to it
        begin = node.start
        if begin % CHUNK_TOKENS:
            tail = _tail(node.parent)
            run, begin = np.concatenate((tail, run)), begin - len(tail)
        for within in range(0, len(run), CHUNK_TOKENS):
            position, slots = begin + within, run[within : within + CHUNK_TOKENS]
            # Rows before the chunk do not see it
            begin_row = visit.first_row + bisect_left(positions, position)
            # All rows below read a whole chunk; an unfinished one they take along
            end_row = visit.end_row if len(slots) == CHUNK_TOKENS else visit.own_end_row
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


def _tail(node: KVNode | None) -> Int32Array:
    """The slots of the unfinished chunk that a node ends in."""
    assert node is not None
    slots, count = node.payload.slots.view, node.end % CHUNK_TOKENS
    return slots[-count:] if count <= len(slots) else np.concatenate((_tail(node.parent), slots))


def _plan_many(visits: list[Visit]) -> Segments:
    """`_plan_few` with work per array where that has work per chunk."""
    pieces: list[Int32Array] = []  # the slots of all visits in lines of one chunk each, piece by piece
    num_lines = 0
    facts: list[int] = []  # per visit, see below
    tails: dict[KVNode | None, Int32Array] = {}  # the branches of a node take the same one along
    for visit in visits:
        node, num_slots = visit.node, visit.end
        start = begin = node.start
        if start % CHUNK_TOKENS:
            tail = tails.get(node.parent)
            if tail is None:
                tail = tails[node.parent] = _tail(node.parent)
            pieces.append(tail)
            begin -= len(tail)
        slots = node.payload.slots.view
        pieces.append(slots if len(slots) == num_slots else slots[:num_slots])
        end = start + num_slots
        first_chunk, end_chunk = begin // CHUNK_TOKENS, -(-end // CHUNK_TOKENS)
        if end % CHUNK_TOKENS:
            pieces.append(_PADDING[end % CHUNK_TOKENS])
        has_rows = visit.own_end_row > visit.first_row  # only those of the node read an unfinished chunk
        facts += (
            first_chunk,
            end_chunk if has_rows else end // CHUNK_TOKENS,
            num_lines - first_chunk,
            start + visit.begin,
            end,
            visit.first_row,
            visit.own_end_row,
            visit.end_row,
        )
        num_lines += end_chunk - first_chunk

    table = np.fromiter(facts, np.int32, len(facts)).reshape(len(visits), -1)
    # One line per chunk number, one column per visit: in this order, rows ascend among chunks of one position
    numbers = np.arange(max(facts[1 :: table.shape[1]]), dtype=np.int32)[:, None]
    number, of_visit = ((table[:, 0] <= numbers) & (numbers < table[:, 1])).nonzero()
    _, _, first_line, stretch_begin, run_end, first_row, own_end, visit_end = table.take(of_visit, axis=0).T
    line, position = first_line + number, number.astype(np.int32) * CHUNK_TOKENS
    size = np.minimum(run_end - position, CHUNK_TOKENS)
    row_begin = first_row + np.maximum(position - stretch_begin, 0)
    row_end = np.where(size == CHUNK_TOKENS, visit_end, own_end)
    probed = [(index, visit) for index, visit in enumerate(visits) if visit.probes]
    if probed:
        for index, visit in probed:
            some = of_visit == index
            row_begin[some] = visit.first_row + np.searchsorted(visit.positions, position[some])
        used = row_begin < row_end
        line, position, size = line[used], position[used], size[used]
        row_begin, row_end = row_begin[used], row_end[used]
    lines = np.concatenate(pieces).reshape(num_lines, CHUNK_TOKENS)
    return Segments(
        row_begin=row_begin,
        row_end=row_end,
        first_position=position,
        slot_offsets=np.concatenate(([0], np.cumsum(size))).astype(np.int32),
        slots=lines.take(line, axis=0)[np.arange(CHUNK_TOKENS, dtype=np.int32) < size[:, None]],
    )


def build_sampling(batch: Batch, vocab_size: int) -> Sampling:
    """What a step draws from so many logits, as its requests stand now."""
    points = batch.samples + batch.compared
    requests = [point.request for point in points]
    params = [request.params for request in requests]
    return Sampling(
        rows=np.array([point.row for point in points], dtype=np.int32),
        temperature=np.array([p.temperature for p in params], dtype=np.float32),
        top_k=np.array([p.top_k if p.top_k > 0 else 0 for p in params], dtype=np.int32),
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
    if not any(request.is_biased for request in requests):
        return None
    biases = [_bias_of(request, vocab_size) for request in requests]
    if not any(biases):  # such as when all have reached their min_tokens
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
