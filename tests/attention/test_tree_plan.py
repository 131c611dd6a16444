"""The cut of attention into items: nothing is read twice, nothing is left out."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from attention.definition import trees
from attention.plans import Sequence, Step, model_input
from ramet.attention.tree_plan import plan_tree


@settings(max_examples=100, deadline=None)
@given(trees(), st.sampled_from([(0, 1), (0, 5), (16, 1), (32, 4), (128, 16), (4, 5)]), st.integers(1, 9))
def test_every_row_reads_each_segment_of_its_context_once(steps, sizes, span_chunks):
    wide_rows, narrow_rows = sizes
    segments = model_input(steps).segments
    num_rows = sum(step.end - step.begin for step in steps)
    plan = plan_tree(
        segments, num_rows, wide_rows=wide_rows, narrow_rows=narrow_rows, span_chunks=span_chunks
    )
    reads = Counter()
    row_of_partial, first_position = {}, {}
    for items, size in ((plan.wide, wide_rows), (plan.narrow, narrow_rows)):
        for i in range(len(items)):
            listed = items.segments[items.offsets[i] : items.offsets[i + 1]].tolist()
            begin, count = int(items.row[i]), int(items.num_rows[i])
            assert listed == sorted(listed) and 0 < count <= size and begin + count <= num_rows
            spans = {int(segments.first_position[segment]) // (64 * span_chunks) for segment in listed}
            assert len(spans) == 1
            for offset in range(count):
                partial = int(items.partial[i]) + offset
                assert row_of_partial.setdefault(partial, begin + offset) == begin + offset
                first_position[partial] = spans.copy().pop()
            for segment in listed:
                rows = range(
                    max(begin, int(segments.row_begin[segment])),
                    min(begin + count, int(segments.row_end[segment])),
                )
                assert rows, "a segment that no row of the block reads"
                reads.update((row, segment) for row in rows)
    assert reads == Counter(
        (row, segment)
        for segment in range(len(segments.row_begin))
        for row in range(segments.row_begin[segment], segments.row_end[segment])
    )
    assert sorted(row_of_partial) == list(range(plan.num_partials))
    for row in range(num_rows):
        partials = plan.row_partials[plan.row_offsets[row] : plan.row_offsets[row + 1]].tolist()
        assert partials and all(row_of_partial[partial] == row for partial in partials)
        positions = [first_position[partial] for partial in partials]
        assert positions == sorted(positions)
    assert plan.row_offsets[-1] == plan.num_partials


def test_branches_share_a_wide_item_and_read_their_own_context_narrowly():
    shared = list(range(640))
    branches = [Sequence([0] * 645, [*shared, *range(1000 + 5 * i, 1005 + 5 * i)]) for i in range(64)]
    step = model_input([Step(branch, 644, 645) for branch in branches])
    plan = plan_tree(step.segments, 64, wide_rows=64, narrow_rows=4, span_chunks=16)
    assert len(plan.wide) == 1 and plan.wide.offsets[-1] == 10
    assert len(plan.narrow) == 16 and plan.narrow.offsets[-1] == 64
