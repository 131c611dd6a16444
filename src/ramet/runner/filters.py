"""From logits to the distribution a token is drawn from, one row at a time as far as results go.

Every function takes ``logits`` ``[n, vocab_size]`` float32 and one value per row.
"""

from __future__ import annotations

import numpy as np
import torch

from ramet.model_io import LogitBias, Penalties, UInt32Array


def apply_penalties(logits: torch.Tensor, penalties: Penalties) -> None:
    """Penalise, in place, tokens that were seen before.

    Repetition (CTRL, arXiv 1909.05858) divides positive and multiplies negative logits of all tokens seen;
    frequency is subtracted per occurrence in the output, presence once.
    """
    device = logits.device
    sample = torch.as_tensor(penalties.entry_sample, dtype=torch.int64, device=device)
    token = torch.as_tensor(penalties.entry_token, dtype=torch.int64, device=device)
    count = torch.as_tensor(penalties.entry_output_count, dtype=torch.float32, device=device)

    def of_entry(values: object) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)[sample]

    value = logits[sample, token]
    repetition = of_entry(penalties.repetition)
    value = torch.where(value > 0, value / repetition, value * repetition)
    value = value - of_entry(penalties.frequency) * count
    logits[sample, token] = value - of_entry(penalties.presence) * (count > 0)


def apply_bias(logits: torch.Tensor, bias: LogitBias) -> None:
    """Add the bias in place. Entries for the same token add up."""
    sample = torch.as_tensor(bias.entry_sample, dtype=torch.int64, device=logits.device)
    token = torch.as_tensor(bias.entry_token, dtype=torch.int64, device=logits.device)
    value = torch.as_tensor(bias.entry_value, dtype=torch.float32, device=logits.device)
    logits.index_put_((sample, token), value, accumulate=True)


def apply_bitmask(logits: torch.Tensor, bitmask: UInt32Array) -> None:
    """Set logits to -inf, in place, where the token's bit is not set (see `ramet.model_io.Sampling`)."""
    lowest_first = np.unpackbits(bitmask.astype("<u4", order="C").view(np.uint8), axis=1, bitorder="little")
    allowed = torch.from_numpy(lowest_first[:, : logits.shape[-1]].astype(np.bool_))
    logits.masked_fill_(~allowed.to(logits.device), -torch.inf)


def drop_unlikely(scaled: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Logits with -inf for all but the likeliest tokens.

    Args:
        scaled: logits divided by the temperature.
        top_k: ``[n]`` int64: keep so many tokens, the first ones among equally likely; 0 keeps all.
        top_p: ``[n]`` float64: of the distribution that is left, keep the smallest set that reaches this.
    """
    ordered = _sorted_values(scaled)
    vocab_size = scaled.shape[-1]
    limit = torch.where(top_k > 0, top_k, vocab_size)[:, None]
    beyond = torch.arange(vocab_size, device=scaled.device) >= limit
    probabilities = torch.softmax(ordered.masked_fill(beyond, -torch.inf), dim=-1).double()
    # A token is kept while those before it do not reach top_p; nothing is before the first
    reached = probabilities.cumsum_(-1)[:, :-1]
    count = torch.minimum(1 + (reached < top_p[:, None]).sum(-1, keepdim=True), limit)
    least = ordered.gather(1, count - 1)
    above, equal = scaled > least, scaled == least
    room = count - above.sum(-1, keepdim=True)
    return scaled.masked_fill(~(above | (equal & (equal.cumsum(-1) <= room))), -torch.inf)


def _sorted_values(rows: torch.Tensor) -> torch.Tensor:
    """Each row in descending order. NumPy sorts float32 with vector instructions, 30 times faster."""
    if rows.device.type != "cpu":
        return torch.sort(rows, dim=-1, descending=True).values
    return torch.from_numpy(np.sort(rows.numpy(), axis=-1)).flip(-1)


def drop_below(scaled: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Logits with -inf for tokens less likely than ``min_p`` ``[n]`` times the likeliest."""
    # exp of the distance to the largest logit is the ratio of the probabilities
    ratio = torch.exp(scaled - scaled.amax(-1, keepdim=True))
    return scaled.masked_fill(ratio < min_p[:, None], -torch.inf)


def draw(scaled: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Tokens ``[n]`` by inversion of the cumulative distribution, one uniform ``[n]`` float64 each."""
    cumulative = torch.softmax(scaled, dim=-1).double().cumsum_(-1)
    # The first token whose cumulative probability exceeds the target; its own probability is not 0
    target = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]
