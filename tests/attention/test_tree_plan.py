"""The cut of attention into items: nothing is read twice, nothing is left out."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention.definition import trees
from attention.plans import Sequence, Step, model_input
from ramet.attention.tree_plan import Kind, plan_tree


def kinds(sizes, at_once=4):
    """A wide and a narrow kind of so many rows; a wide one of none is None."""
    wide_rows, narrow_rows = sizes
    return {"wide": Kind(wide_rows, at_once) if wide_rows else None, "narrow": Kind(narrow_rows, at_once)}


@settings(max_examples=100, deadline=None)
@given(
    trees(),
    st.sampled_from([(0, 1), (0, 5), (16, 1), (32, 4), (128, 16), (40, 5), (4, 5)]),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(1, 100),
)
def test_every_row_reads_each_segment_of_its_context_once(steps, sizes, span_chunks, at_once):
    segments = model_input(steps).segments
    num_rows = sum(step.end - step.begin for step in steps)
    plan = plan_tree(segments, num_rows, **kinds(sizes, at_once), span_chunks=span_chunks)
    reads = Counter()
    for items, size in ((plan.wide, sizes[0]), (plan.narrow, sizes[1])):
        assert sorted(items.order) == list(range(len(items)))
        lengths = np.diff(items.offsets)[items.order].tolist()
        assert lengths == sorted(lengths, reverse=True)
        for block in range(len(items.ranges) - 1):
            of_block = range(items.ranges[block], items.ranges[block + 1])
            assert all(items.block[i] == block for i in of_block)
        assert items.ranges[0] == 0 and items.ranges[-1] == len(items)
        for i in range(len(items)):
            listed = items.segments[items.offsets[i] : items.offsets[i + 1]].tolist()
            begin = int(items.block[i]) * size
            assert listed and listed == sorted(listed) and begin < num_rows
            if span_chunks is not None:
                doubled = [span_chunks << n for n in range(1, 9) for _ in range(4)]
                ends = np.cumsum([span_chunks] * 8 + doubled) * 64
                assert len(set(np.searchsorted(ends, segments.first_position[listed], side="right"))) == 1
            for segment in listed:
                rows = range(
                    max(begin, int(segments.row_begin[segment])),
                    min(begin + size, int(segments.row_end[segment])),
                )
                assert rows, "a segment that no row of the block reads"
                reads.update((row, segment) for row in rows)
    assert reads == Counter(
        (row, segment)
        for segment in range(len(segments.row_begin))
        for row in range(segments.row_begin[segment], segments.row_end[segment])
    )


def test_branches_share_a_wide_item_and_read_their_own_context_narrowly():
    shared = list(range(640))
    branches = [Sequence([0] * 645, [*shared, *range(1000 + 5 * i, 1005 + 5 * i)]) for i in range(64)]
    step = model_input([Step(branch, 644, 645) for branch in branches])
    plan = plan_tree(step.segments, 64, **kinds((64, 4)), span_chunks=16)
    assert len(plan.wide) == 1 and plan.wide.offsets[-1] == 10
    assert len(plan.narrow) == 16 and plan.narrow.offsets[-1] == 64


@pytest.mark.parametrize(("length", "expected"), [(64 * 96, 48), (64 * 10, 10), (64 * 200, 40)])
def test_a_lone_row_keeps_the_device_busy(length, expected):
    """Of a short context every item reads a chunk, of a long one all read as many."""
    step = model_input([Step(Sequence([0] * length, list(range(length))), length - 1, length)])
    items = plan_tree(step.segments, 1, **kinds((64, 4), at_once=48), span_chunks=None).narrow
    assert len(items) == expected
    assert np.ptp(np.diff(items.offsets)) <= 1


def test_long_and_short_contexts_are_cut_into_like_pieces():
    lengths = [100, 6000, 500, 3000, 64, 1500, 2000, 900]
    ends = np.cumsum(lengths).tolist()
    sequences = [
        Sequence([0] * length, list(range(end - length, end)))
        for length, end in zip(lengths, ends, strict=True)
    ]
    step = model_input(
        [Step(sequence, len(sequence.slots) - 1, len(sequence.slots)) for sequence in sequences]
    )
    items = plan_tree(step.segments, len(lengths), **kinds((0, 1), at_once=48), span_chunks=None).narrow
    total = int(items.offsets[-1])
    rounds = -(-len(items) // 48)
    assert rounds * np.diff(items.offsets).max() <= 1.5 * total / 48
