"""What attention is, in float64, and trees to try it on."""

import numpy as np
import torch
from hypothesis import strategies as st

from attention.plans import Sequence, Step

HEADS = [(1, 1), (4, 4), (9, 3), (8, 1), (14, 2)]  # (num_heads, num_kv_heads)


def attend_by_definition(steps, queries, keys, values):
    """Masked softmax over the whole context, in float64."""
    parts, first_row = [], 0
    for step in steps:
        rows = slice(first_row, first_row + step.end - step.begin)
        first_row = rows.stop
        context = torch.tensor(step.sequence.slots[: step.end])
        group = queries.shape[1] // keys.shape[1]
        k = keys[context].double().repeat_interleave(group, dim=1)
        v = values[context].double().repeat_interleave(group, dim=1)
        scores = torch.einsum("rhd,thd->rht", queries[rows].double(), k) * queries.shape[-1] ** -0.5
        later = torch.arange(step.end) > torch.arange(step.begin, step.end)[:, None]
        weights = torch.softmax(scores.masked_fill(later[:, None], -torch.inf), dim=-1)
        parts.append(torch.einsum("rht,thd->rhd", weights, v).flatten(1))
    return torch.cat(parts)


def pool(num_slots, num_kv_heads, head_dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (num_slots, num_kv_heads, head_dim)
    return torch.randn(shape, generator=generator) * 2, torch.randn(shape, generator=generator)


@st.composite
def trees(draw):
    """Steps of sequences that branch off each other, with shuffled slots."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    free = rng.permutation(2000).tolist()
    sequences = []
    for _ in range(draw(st.integers(1, 5))):
        parent = draw(st.sampled_from(sequences)) if sequences else []
        shared = parent[: draw(st.integers(0, len(parent)))]
        own = draw(st.integers(1, 150))
        sequences.append(shared + [free.pop() for _ in range(own)])
    steps = []
    for slots in sequences:
        end = draw(st.integers(1, len(slots)))
        begin = draw(st.integers(max(0, end - 70), end - 1))
        steps.append(Step(Sequence([0] * len(slots), slots), begin, end))
    return steps
