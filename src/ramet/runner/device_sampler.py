"""`ramet.runner.sampler` for a device that computes while Python goes on: order samples, collect later.

Nothing waits for the device in between: what it must know travels in one copy out of pinned memory, what it
finds comes back in another, and Python decides by the parameters of samples alone.
Invariant: what a sample gets depends on its row of logits and its own parameters alone.
Must not know: how logits were computed, requests, text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ramet.errors import EngineDead
from ramet.kernels.triton.logits import add_bias, penalize
from ramet.kernels.triton.sampling import Distributions
from ramet.model_io import LogitBias, ModelOutput, Sampling
from ramet.runner.sampler import Block, IntIndex, Scores, blocks
from ramet.runner.uniform import uniform

ALIGNMENT = 16  # bytes; Triton compiles a kernel once more for pointers that lie otherwise
COPYING = frozenset({"penalty_sample", "bias_sample", "top_k", "top_p"})  # parameters that change logits
ALL = -1.0  # of what `Distributions.keep_likeliest` takes: the sample keeps all tokens
TORCH_DTYPES = {
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}

Array = NDArray[Any]
Arrays = dict[str, Array]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Samples that have been ordered; satisfies `ramet.model_io.DrawnStep`.

    ``token_ids`` is for what is ordered next: ``[num_samples]`` int32 on the device, -1 where logits were not
    finite.
    """

    token_ids: torch.Tensor
    _num_top: Array  # [num_samples] how many top logprobs; -1 = no logprobs wanted
    _found: list[Array]  # views of the host's memory, to be read once `_copied`
    _copied: torch.cuda.Event | None  # None if the host's memory is where the results came about

    def collect(self) -> ModelOutput:
        """Wait for the results.

        Raises:
            EngineDead: the device failed.
        """
        if self._copied is not None:
            try:
                self._copied.synchronize()
            except RuntimeError as error:
                raise EngineDead(f"the device failed: {error}") from error
        # Where nothing was wanted, the device left whatever stood there
        token_ids, logprobs, top_token_ids, top_logprobs, score_logprobs = self._found
        num_top = np.where(token_ids >= 0, self._num_top, -1)
        is_top = np.arange(top_token_ids.shape[1]) < num_top[:, None]
        return ModelOutput(
            token_ids=token_ids,
            logprobs=np.where(num_top >= 0, logprobs, np.float32(np.nan)),
            top_token_ids=np.where(is_top, top_token_ids, np.int32(0)),
            top_logprobs=np.where(is_top, top_logprobs, np.float32(-np.inf)),
            score_logprobs=score_logprobs,
        )


def draw(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
    sampling: Sampling,
    scores: Scores,
    device: torch.device,
) -> Drawn:
    """Order a token for every sample and the logprobs of the known tokens.

    Arguments and results are those of `ramet.runner.sampler.sample`, except that logits may be bfloat16, and
    that of equal top logprobs the first tokens are taken. A draw may differ where the uniform falls on the
    boundary of two tokens, within the rounding of float32.
    """
    num_samples, num_scores = len(sampling.rows), len(scores.rows)
    max_top = max(int(sampling.num_top_logprobs.max(initial=0)), 0)
    plan = list(blocks(sampling, scores, vocab_size))
    groups = [_parameters(sampling, scores, vocab_size)]
    is_copied = not COPYING.isdisjoint(groups[0])
    for block in plan:
        groups.append(_of_block(block, sampling, scores))
        groups.extend(_of_part(block, part, sampling, is_copied=is_copied) for part in block.parts)
    given, *rest = _send(groups, device)
    of_groups = iter(rest)

    layout = [
        (torch.int32, (num_samples,)),
        (torch.float32, (num_samples,)),
        (torch.int32, (num_samples, max_top)),
        (torch.float32, (num_samples, max_top)),
        (torch.float32, (num_scores,)),
    ]
    results = torch.empty(_num_bytes(layout), dtype=torch.uint8, device=device)
    token_ids, logprobs, top_token_ids, top_logprobs, score_logprobs = _views(results, layout)
    for block in plan:
        here = next(of_groups)
        logits = logits_of(here["rows"])
        known = None
        if "places" in here:
            known = Distributions(logits, here["places"], here["places"], here["ones"], here["zeros"])
            known.weigh()
        for _ in block.parts:
            part = next(of_groups)
            _draw_part(logits, given, part, token_ids)
            if known is not None:
                known.logprobs(part["rows"], part["samples"], token_ids, logprobs)
            if known is not None and "top_rows" in part:
                likeliest = _likeliest(logits.index_select(0, part["top_rows"]), max_top)
                width = likeliest.shape[1]
                top_token_ids[:, :width].index_copy_(0, part["top_samples"], likeliest)
                known.logprobs(
                    part["top_rows"], part["top_samples"], top_token_ids, top_logprobs, columns=width
                )
        if known is not None and "scored" in here:
            known.logprobs(here["scored_rows"], here["scored"], given["score_token_ids"], score_logprobs)

    on_host, copied = results, None
    if device.type == "cuda":
        on_host = torch.empty(results.shape, dtype=torch.uint8, pin_memory=True)
        on_host.copy_(results, non_blocking=True)
        copied = torch.cuda.current_stream(device).record_event()
    found = [view.numpy() for view in _views(on_host, layout)]
    return Drawn(token_ids, np.minimum(sampling.num_top_logprobs, vocab_size), found, copied)


def _draw_part(logits: torch.Tensor, given: Tensors, part: Tensors, token_ids: torch.Tensor) -> None:
    """Samples that may each have a copy of their row."""
    rows = part["rows"]
    if "order" in part:
        logits, rows = logits.index_select(0, rows).float(), part["order"]
    if "penalty_sample" in given:
        entries = (given["penalty_sample"], given["penalty_token"], given["penalty_count"])
        of_sample = (given["repetition"], given["frequency"], given["presence"])
        penalize(logits, part["place_of"], entries, of_sample)
    if "bias_sample" in given:
        entries = (given["bias_sample"], given["bias_token"], given["bias_value"])
        add_bias(logits, part["place_of"], entries)
    distributions = Distributions(
        logits, rows, part["samples"], given["temperature"], given["min_p"], given.get("bitmask")
    )
    if "top_k" in given:
        distributions.keep_likeliest(given["top_k"], weighted=False)
    if "top_p" in given:
        distributions.keep_likeliest(given["top_p"], weighted=True)
    if "uniforms" in given:
        distributions.weigh()
    distributions.pick(given.get("uniforms"), token_ids)


def _likeliest(logits: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` likeliest tokens of each row, at most all, ``[n, count]`` int32; of equal ones the first.

    Which of several equal values `torch.topk` takes depends on how many rows it is given; these keys differ.
    """
    vocab_size = logits.shape[1]
    bits = (logits.float() + 0.0).view(torch.int32)  # 0.0 == -0.0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    backwards = torch.arange(vocab_size - 1, -1, -1, dtype=torch.int64, device=logits.device)
    keys = (ordered << 32) | backwards
    best = torch.topk(keys, min(count, vocab_size), dim=-1).values
    return (vocab_size - 1 - (best & 0xFFFFFFFF)).to(torch.int32)


def _parameters(sampling: Sampling, scores: Scores, vocab_size: int) -> Arrays:
    """What kernels read of all samples, those arrays that any sample has use for."""
    temperature, top_k, top_p = sampling.temperature, sampling.top_k, sampling.top_p
    is_random = temperature > 0
    few = is_random & (top_k > 0) & (top_k < vocab_size)
    nucleus = is_random & (top_p < 1)
    given: Arrays = {"temperature": temperature, "min_p": sampling.min_p, "score_token_ids": scores.token_ids}
    if is_random.any():
        given["uniforms"] = uniform(sampling.seeds, sampling.positions)
    if few.any():
        given["top_k"] = np.where(few, top_k.astype(np.float64), ALL)
    if nucleus.any():
        least = np.finfo(np.float32).tiny  # there is always a token to draw
        given["top_p"] = np.where(nucleus, np.maximum(top_p.astype(np.float64), least), ALL)
    if sampling.bitmask is not None:
        given["bitmask"] = np.ascontiguousarray(sampling.bitmask).view(np.int32)
    if sampling.penalties is not None:
        penalties = sampling.penalties
        given |= {
            "repetition": penalties.repetition,
            "frequency": penalties.frequency,
            "presence": penalties.presence,
            "penalty_sample": penalties.entry_sample,
            "penalty_token": penalties.entry_token,
            "penalty_count": penalties.entry_output_count,
        }
    if sampling.bias is not None:
        given |= _bias(sampling.bias, vocab_size)
    return given


def _bias(bias: LogitBias, vocab_size: int) -> Arrays:
    """Each token of a sample once: programs that add to the same logit would not wait for each other."""
    keys = bias.entry_sample.astype(np.int64) * vocab_size + bias.entry_token
    unique, of_entry = np.unique(keys, return_inverse=True)
    return {
        "bias_sample": (unique // vocab_size).astype(np.int32),
        "bias_token": (unique % vocab_size).astype(np.int32),
        "bias_value": np.bincount(of_entry, bias.entry_value, len(unique)).astype(np.float32),
    }


def _of_block(block: Block, sampling: Sampling, scores: Scores) -> Arrays:
    """What kernels read of a block; ``places`` if logprobs are wanted, ``scored`` if scores are."""
    num_rows = len(block.rows)
    group: Arrays = {"rows": block.rows}
    if len(block.scored):
        group |= {"scored": block.scored, "scored_rows": block.place(scores.rows[block.scored])}
    if len(block.scored) or any((sampling.num_top_logprobs[part] >= 0).any() for part in block.parts):
        group |= {
            "places": np.arange(num_rows, dtype=np.int64),
            "ones": np.ones(num_rows, dtype=np.float32),
            "zeros": np.zeros(num_rows, dtype=np.float32),
        }
    return group


def _of_part(block: Block, part: IntIndex, sampling: Sampling, *, is_copied: bool) -> Arrays:
    """What kernels read of samples that are drawn together.

    If their rows are copied, ``order`` numbers the copies, and ``place_of`` is the copy of every sample, -1
    for samples of other parts.
    """
    group: Arrays = {"samples": part, "rows": block.place(sampling.rows[part])}
    if is_copied:
        group["order"] = np.arange(len(part), dtype=np.int64)
        group["place_of"] = np.full(len(sampling.rows), -1, dtype=np.int64)
        group["place_of"][part] = group["order"]
    topped = part[sampling.num_top_logprobs[part] > 0]
    if len(topped):
        group |= {"top_samples": topped, "top_rows": block.place(sampling.rows[topped])}
    return group


def _send(groups: Sequence[Arrays], device: torch.device) -> list[Tensors]:
    """Everything to the device in one copy: the same groups there."""
    arrays = [array for group in groups for array in group.values()]
    layout = [(TORCH_DTYPES[array.dtype], array.shape) for array in arrays]
    sent = torch.empty(_num_bytes(layout), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for view, array in zip(_views(sent, layout), arrays, strict=True):
        view.numpy()[...] = array
    views = iter(_views(sent.to(device, non_blocking=True), layout))
    return [{name: next(views) for name in group} for group in groups]


Layout = Sequence[tuple[torch.dtype, tuple[int, ...]]]


def _num_bytes(layout: Layout) -> int:
    return sum(_room(dtype, shape) for dtype, shape in layout)


def _room(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return -(-prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def _views(memory: torch.Tensor, layout: Layout) -> list[torch.Tensor]:
    """Tensors one after another in ``memory`` ``[num_bytes]`` uint8."""
    views, begin = [], 0
    for dtype, shape in layout:
        end = begin + prod(shape) * dtype.itemsize
        views.append(memory[begin:end].view(dtype).view(shape))
        begin += _room(dtype, shape)
    return views
