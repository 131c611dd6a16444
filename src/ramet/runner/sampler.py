"""Logits in; tokens, logprobs and scores out.

Invariant: what a sample gets depends on its row of logits and its own parameters alone.
Must not know: how logits were computed, requests, text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from ramet.model_io import Float32Array, Int32Array, LogitBias, ModelOutput, Penalties, Sampling
from ramet.runner import filters
from ramet.runner.uniform import uniform

BLOCK_BYTES = 64 * 2**20  # bounds the logits held at a time; sampling takes a few times this

IntIndex = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scores:
    """Which known tokens to score: the logprob of ``token_ids[i]`` in row ``rows[i]``."""

    rows: Int32Array  # [num_scores]
    token_ids: Int32Array  # [num_scores]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows whose logits are held at the same time."""

    rows: IntIndex  # ascending
    parts: list[IntIndex]  # samples of these rows, so many at a time that each may have a row of its own
    scored: IntIndex  # scores of these rows

    def place(self, rows: Int32Array) -> IntIndex:
        """Which of the block's rows these are."""
        return np.searchsorted(self.rows, rows)


def blocks(sampling: Sampling, scores: Scores, vocab_size: int) -> Iterator[Block]:
    """Every row that is asked for, once, in blocks of `BLOCK_BYTES` of float32 logits."""
    rows = np.unique(np.concatenate((sampling.rows, scores.rows))).astype(np.int64)
    block_rows = max(BLOCK_BYTES // (4 * vocab_size), 1)
    for begin in range(0, len(rows), block_rows):
        block = rows[begin : begin + block_rows]
        samples = np.flatnonzero((sampling.rows >= block[0]) & (sampling.rows <= block[-1]))
        scored = np.flatnonzero((scores.rows >= block[0]) & (scores.rows <= block[-1]))
        # Many samples may share a row
        parts = [samples[first : first + block_rows] for first in range(0, len(samples), block_rows)]
        yield Block(block, parts, scored)


def sample(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
    sampling: Sampling,
    scores: Scores,
    device: torch.device,
) -> ModelOutput:
    """Draw a token for every sample and score the known tokens.

    Logits are computed once for each row that is asked for, in blocks of bounded size.

    Args:
        logits_of: float32 logits ``[n, vocab_size]`` of the rows ``[n]`` int64 it is given.
        vocab_size: columns of the logits.
        sampling: what to draw.
        scores: what to score.
        device: where the logits are computed.
    """
    num_samples = len(sampling.rows)
    max_top = max(int(sampling.num_top_logprobs.max(initial=0)), 0)
    output = ModelOutput(
        token_ids=np.full(num_samples, -1, dtype=np.int32),
        logprobs=np.full(num_samples, np.nan, dtype=np.float32),
        top_token_ids=np.zeros((num_samples, max_top), dtype=np.int32),
        top_logprobs=np.full((num_samples, max_top), -np.inf, dtype=np.float32),
        score_logprobs=np.empty(len(scores.rows), dtype=np.float32),
    )
    for block in blocks(sampling, scores, vocab_size):
        logits = logits_of(torch.from_numpy(block.rows).to(device))
        for part in block.parts:
            chosen = sampling if len(part) == num_samples else _take(sampling, part)
            local_rows = torch.from_numpy(block.place(chosen.rows)).to(device)
            token_ids = _draw_tokens(logits[local_rows], chosen)
            output.token_ids[part] = token_ids
            _fill_logprobs(output, part, logits, local_rows, token_ids, chosen.num_top_logprobs)
        if len(block.scored):
            local = torch.from_numpy(block.place(scores.rows[block.scored])).to(device)
            tokens = torch.as_tensor(scores.token_ids[block.scored], dtype=torch.int64, device=device)
            known = torch.log_softmax(logits, dim=-1)[local, tokens]
            output.score_logprobs[block.scored] = known.cpu().numpy()
    return output


def _draw_tokens(logits: torch.Tensor, sampling: Sampling) -> NDArray[np.int64]:
    """Token ids ``[num_samples]``; -1 where logits are not finite. Changes ``logits``, one row per sample."""
    if sampling.penalties is not None:
        filters.apply_penalties(logits, sampling.penalties)
    if sampling.bias is not None:
        filters.apply_bias(logits, sampling.bias)
    if sampling.bitmask is not None:
        filters.apply_bitmask(logits, sampling.bitmask)
    peak = logits.amax(-1)  # NaN if the row holds one, -inf if every token is banned
    usable: NDArray[np.bool_] = torch.isfinite(peak).cpu().numpy()
    token_ids = np.full(len(sampling.rows), -1, dtype=np.int64)

    greedy = np.flatnonzero(usable & (sampling.temperature <= 0))
    if len(greedy):
        token_ids[greedy] = logits[greedy].argmax(-1).cpu().numpy()
    random = np.flatnonzero(usable & (sampling.temperature > 0))
    if len(random):
        temperature = torch.as_tensor(sampling.temperature[random], device=logits.device)
        # Relative to the largest logit first, so that a tiny temperature cannot overflow
        scaled = (logits[random] - peak[random, None]) / temperature[:, None]
        scaled = _filter(scaled, sampling.top_k[random], sampling.top_p[random], sampling.min_p[random])
        uniforms = uniform(sampling.seeds[random], sampling.positions[random])
        drawn = filters.draw(scaled, torch.from_numpy(uniforms).to(logits.device))
        token_ids[random] = drawn.cpu().numpy()
    return token_ids


def _filter(
    scaled: torch.Tensor, top_k: Int32Array, top_p: Float32Array, min_p: Float32Array
) -> torch.Tensor:
    """Top-k, top-p, min-p, each only on the rows that ask for it. May change ``scaled``."""
    device = scaled.device
    vocab_size = scaled.shape[-1]
    few = np.flatnonzero(((top_k > 0) & (top_k < vocab_size)) | (top_p < 1))
    if len(few):
        scaled[few] = filters.drop_unlikely(
            scaled[few],
            torch.as_tensor(top_k[few], dtype=torch.int64, device=device),
            torch.as_tensor(np.where(top_p[few] < 1, top_p[few], np.inf), dtype=torch.float64, device=device),
        )
    cut = np.flatnonzero(min_p > 0)
    if len(cut):
        scaled[cut] = filters.drop_below(scaled[cut], torch.as_tensor(min_p[cut], device=device))
    return scaled


def _fill_logprobs(
    output: ModelOutput,
    samples: IntIndex,
    logits: torch.Tensor,
    local_rows: torch.Tensor,
    token_ids: NDArray[np.int64],
    num_top: Int32Array,
) -> None:
    """Logprobs of the samples of one block that want them, into ``output``."""
    wanted = np.flatnonzero((num_top >= 0) & (token_ids >= 0))
    if not len(wanted):
        return
    logprobs = torch.log_softmax(logits[local_rows[wanted]], dim=-1)
    tokens = torch.from_numpy(token_ids[wanted]).to(logits.device)
    output.logprobs[samples[wanted]] = logprobs.gather(1, tokens[:, None])[:, 0].cpu().numpy()
    # One call per length: which of several equal values make the cut may depend on the length
    for count in np.unique(num_top[wanted]):
        if count == 0:
            continue
        same = np.flatnonzero(num_top[wanted] == count)
        width = min(int(count), logprobs.shape[-1])
        values, ids = torch.topk(logprobs[same], width, dim=-1)
        values, order = torch.sort(values, dim=-1, descending=True, stable=True)
        into = samples[wanted[same]]
        output.top_logprobs[into, :width] = values.cpu().numpy()
        output.top_token_ids[into, :width] = ids.gather(1, order).cpu().numpy()


def _take(sampling: Sampling, samples: IntIndex) -> Sampling:
    """The sampling of some of its samples, given in ascending order."""
    number = np.full(len(sampling.rows), -1, dtype=np.int32)
    number[samples] = np.arange(len(samples), dtype=np.int32)
    penalties, bias = sampling.penalties, sampling.bias
    if penalties is not None:
        kept = number[penalties.entry_sample] >= 0
        penalties = Penalties(
            repetition=penalties.repetition[samples],
            frequency=penalties.frequency[samples],
            presence=penalties.presence[samples],
            entry_sample=number[penalties.entry_sample[kept]],
            entry_token=penalties.entry_token[kept],
            entry_output_count=penalties.entry_output_count[kept],
        )
    if bias is not None:
        kept = number[bias.entry_sample] >= 0
        bias = LogitBias(
            entry_sample=number[bias.entry_sample[kept]],
            entry_token=bias.entry_token[kept],
            entry_value=bias.entry_value[kept],
        )
    return replace(
        sampling,
        rows=sampling.rows[samples],
        temperature=sampling.temperature[samples],
        top_k=sampling.top_k[samples],
        top_p=sampling.top_p[samples],
        min_p=sampling.min_p[samples],
        seeds=sampling.seeds[samples],
        positions=sampling.positions[samples],
        num_top_logprobs=sampling.num_top_logprobs[samples],
        penalties=penalties,
        bias=bias,
        bitmask=None if sampling.bitmask is None else sampling.bitmask[samples],
    )
