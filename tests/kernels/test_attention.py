"""Tree attention against the definition in float64 and the torch reference, and a row's bits in company."""

from __future__ import annotations

import numpy as np
import packed_matrices
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attention.plans import Sequence, Step, model_input
from ramet import kernels
from ramet.attention.base import ForwardBatch
from ramet.attention.reference import ReferenceAttention

NATIVE = kernels.load_native()
if NATIVE is None:
    pytest.skip(kernels.why_unavailable(), allow_module_level=True)

ISAS = NATIVE.supported_isas()
TEAMS = {size: NATIVE.Team(size) for size in (1, 2, 3, 8)}
HEADS = [(1, 1), (4, 4), (9, 3), (8, 1), (14, 2), (32, 2)]  # (queries, keys): groups of 1 .. 16
DIMS = [2, 6, 16, 32, 34, 64, 80, 96, 128, 256]
NUM_SLOTS = 3000
each_isa = pytest.mark.parametrize("isa", ISAS)
each_pool = pytest.mark.parametrize("float32", [True, False], ids=["float32", "bf16"])


def bf16(values):
    return packed_matrices.bf16(values).astype(np.float32)


def attend(isa, step, queries, keys, values, float32, team=1):
    """The kernels on a step and queries ``[num_rows, num_heads, head_dim]``; the pool is indexed by slot."""
    segments = step.segments
    out = np.full((len(queries), queries.shape[1] * queries.shape[2]), np.nan, dtype=np.float32)
    NATIVE.attention(
        TEAMS[team],
        isa,
        queries,
        keys,
        values,
        float32,
        step.positions,
        segments.row_begin,
        segments.row_end,
        segments.first_position,
        segments.slot_offsets,
        segments.slots,
        out,
    )
    return out


def attend_by_definition(steps, queries, keys, values):
    """(Masked softmax over the whole context in float64, the same of the magnitudes of the values)."""
    parts, first_row = [], 0
    for step in steps:
        rows = slice(first_row, first_row + step.end - step.begin)
        first_row = rows.stop
        context = step.sequence.slots[: step.end]
        group = queries.shape[1] // keys.shape[1]
        k = np.repeat(keys[context].astype(np.float64), group, axis=1)
        v = np.repeat(values[context].astype(np.float64), group, axis=1)
        scores = np.einsum("rhd,thd->rht", queries[rows].astype(np.float64), k) * queries.shape[2] ** -0.5
        later = np.arange(step.end) > np.arange(step.begin, step.end)[:, None]
        scores[np.broadcast_to(later[:, None], scores.shape)] = -np.inf
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        parts.append([np.einsum("rht,thd->rhd", weights, x).reshape(len(scores), -1) for x in (v, np.abs(v))])
    return tuple(np.concatenate([part[index] for part in parts]) for index in (0, 1))


def pool(heads, head_dim, seed=0, num_slots=NUM_SLOTS):
    rng = np.random.default_rng(seed)
    shape = (num_slots, heads, head_dim)
    return rng.standard_normal((2, *shape)).astype(np.float32) * np.float32([[[[2]]], [[[1]]]])


def queries_of(steps, heads, head_dim, seed=1):
    num_rows = sum(step.end - step.begin for step in steps)
    return np.random.default_rng(seed).standard_normal((num_rows, heads, head_dim)).astype(np.float32)


def check(isa, steps, heads, head_dim, float32, team, seed=0):
    """The result is the definition's: of the numbers as they are held, up to rounding on the way."""
    keys, values = pool(heads[1], head_dim, seed)
    queries = queries_of(steps, heads[0], head_dim, seed + 1)
    result = attend(isa, model_input(steps), queries, keys, values, float32, team)
    if not float32:
        keys, values = bf16(keys), bf16(values)
    native_bf16 = isa == "avx512_bf16" and not float32
    if native_bf16:  # scaled queries and the weights of the softmax are bfloat16 as well
        scale = np.float32(np.log2(np.e)) / np.sqrt(np.float32(head_dim))
        queries = bf16(queries * scale) / scale
    expected, magnitudes = attend_by_definition(steps, queries, keys, values)
    # Scores reach 2 * sqrt(head_dim) or so, and are float32
    tolerance = 1e-5 * np.abs(values).max() + (2.0**-8 * magnitudes if native_bf16 else 0)
    difference = np.abs(result - expected)
    assert (difference <= tolerance).all(), f"{(difference / tolerance).max():.2f} of the tolerance"
    return result


@st.composite
def trees(draw):
    """Steps of sequences that branch off each other, in shuffled slots; some end in a single row."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    free = rng.permutation(NUM_SLOTS).tolist()
    sequences = []
    lengths = draw(st.sampled_from([(1, 3), (1, 150), (60, 70), (100, 700)]))
    for _ in range(draw(st.integers(1, 6))):
        parent = draw(st.sampled_from(sequences)) if sequences else []
        shared = parent[: draw(st.integers(0, len(parent)))]
        own = min(draw(st.integers(*lengths)), len(free))
        sequences.append(shared + [free.pop() for _ in range(own)])
    steps = []
    for slots in sequences:
        end = draw(st.sampled_from([len(slots), draw(st.integers(1, len(slots)))]))
        begin = max(0, end - draw(st.sampled_from([1, 1, 7, 64, 130])))
        steps.append(Step(Sequence([0] * len(slots), slots), begin, end))
    return steps


LONG = [Step(Sequence([0] * 2700, list(range(2700))), 2699, 2700)]  # six spans: cut among threads


@each_isa
@each_pool
@settings(max_examples=15, deadline=None)
@given(
    steps=trees(),
    heads=st.sampled_from(HEADS),
    head_dim=st.sampled_from(DIMS),
    team=st.sampled_from(list(TEAMS)),
)
@example(steps=LONG, heads=(4, 1), head_dim=64, team=3)
def test_it_is_the_definition(isa, float32, steps, heads, head_dim, team):
    check(isa, steps, heads, head_dim, float32, team)


@each_isa
@each_pool
def test_any_size_of_head(isa, float32):
    steps = [Step(Sequence([0] * 100, list(range(100))), 70, 100)]
    for head_dim in [*range(2, 66, 6), 510, 512]:
        check(isa, steps, (3, 1), head_dim, float32, 1)


@each_isa
@each_pool
def test_contexts_of_any_length(isa, float32):
    """One row at the end, and all rows: the last chunk holds any number of keys."""
    for length in [*range(1, 19), 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129]:
        sequence = Sequence([0] * length, list(range(length)))
        for begin in (0, length - 1):
            check(isa, [Step(sequence, begin, length)], (6, 2), 32, float32, 1)


@each_isa
@settings(max_examples=6, deadline=None)
@given(trees(), st.sampled_from(HEADS), st.sampled_from([32, 64, 80]))
def test_float32_is_the_torch_reference(isa, steps, heads, head_dim):
    keys, values = pool(heads[1], head_dim)
    queries = queries_of(steps, heads[0], head_dim)
    step = model_input(steps)
    reference = ReferenceAttention()
    batch = reference.plan(ForwardBatch.from_input(step, torch.device("cpu")))
    arrays = [torch.from_numpy(array) for array in (queries, keys, values)]
    expected = reference.forward(*arrays, batch).numpy()
    result = attend(isa, step, queries, keys, values, True)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5)


@each_isa
@each_pool
@pytest.mark.parametrize("heads", [(4, 1), (3, 3)], ids=str)
def test_teams_of_any_size_give_the_same_bits(isa, float32, heads):
    """A long context is cut in spans among threads; few of the rows, many, and both at once."""
    long = Sequence([0] * 2600, list(range(2600)))
    branch = Sequence([0] * 1600, [*range(1500), *range(2600, 2700)])
    short = Sequence([0] * 90, list(range(2700, 2790)))
    for steps in (
        [Step(long, 2599, 2600)],
        [Step(long, 2500, 2600)],
        [Step(long, 2595, 2600), Step(branch, 1599, 1600), Step(short, 0, 90)],
        [Step(short, 80, 90), Step(branch, 1500, 1600)],
    ):
        keys, values = pool(heads[1], 32)
        queries = queries_of(steps, heads[0], 32)
        step = model_input(steps)
        first, *others = (attend(isa, step, queries, keys, values, float32, team) for team in TEAMS)
        assert np.isfinite(first).all()
        for other in others:
            assert np.array_equal(first, other)


@each_isa
@each_pool
@pytest.mark.parametrize(("heads", "head_dim"), [((9, 3), 64), ((14, 2), 34), ((8, 1), 128), ((2, 2), 6)])
@pytest.mark.parametrize("team", [1, 3])
def test_a_rows_bits_do_not_depend_on_company_place_or_slots(isa, float32, heads, head_dim, team):
    keys, values = pool(heads[1], head_dim)
    rng = np.random.default_rng(0)
    length = 300
    slots = rng.permutation(700)[:length].tolist()
    sequence = Sequence([0] * length, slots)
    queries = queries_of([Step(sequence, 0, length)], heads[0], head_dim)

    def run(steps, queries):
        return attend(isa, model_input(steps), queries, keys, values, float32, team)

    whole = run([Step(sequence, 0, length)], queries)
    for begin, end in [(0, 1), (299, 300), (63, 65), (64, 128), (17, 23), (100, 300)]:
        part = run([Step(sequence, begin, end)], queries[begin:end])
        assert np.array_equal(part, whole[begin:end]), f"rows {begin}..{end - 1} on their own"

    # Other sequences before and behind it, one of which shares its first 130 positions
    others = [
        Step(Sequence([0] * 90, list(range(700, 790))), 0, 90),
        Step(Sequence([0] * 180, slots[:130] + list(range(800, 850))), 130, 180),
        Step(Sequence([0] * 1400, list(range(900, 2300))), 1399, 1400),
    ]
    for index in range(4):
        steps = [*others[:index], Step(sequence, 130, 300), *others[index:]]
        counts = [step.end - step.begin for step in steps]
        noise = rng.standard_normal((sum(counts), heads[0], head_dim)).astype(np.float32)
        begin = sum(counts[:index])
        noise[begin : begin + 170] = queries[130:]
        result = run(steps, noise)
        assert np.array_equal(result[begin : begin + 170], whole[130:]), f"as number {index} of four"

    moved = rng.permutation(np.arange(1300, 2000))[:length].tolist()
    keys[moved], values[moved] = keys[slots], values[slots]
    again = run([Step(Sequence([0] * length, moved), 0, length)], queries)
    assert np.array_equal(again, whole), "in other slots"


@each_isa
@each_pool
@pytest.mark.parametrize("num_branches", [1, 5, 15, 31, 47])
def test_a_branch_has_the_bits_it_has_alone(isa, float32, num_branches):
    """However many share a prefix: few are multiplied one by one, many at a time, and here in turns."""
    keys, values = pool(4, 32)
    free = iter(np.random.default_rng(num_branches).permutation(NUM_SLOTS).tolist())
    shared = [next(free) for _ in range(150)]
    contexts = [[next(free) for _ in range(170)]]  # of a stranger beside them, over the same positions
    contexts += [shared + [next(free) for _ in range(1 + index % 9)] for index in range(num_branches)]
    steps = [Step(Sequence([0] * len(slots), slots), len(slots) - 1, len(slots)) for slots in contexts]
    queries = queries_of(steps, 4, 32)
    together = attend(isa, model_input(steps), queries, keys, values, float32)
    for row, step in enumerate(steps):
        alone = attend(isa, model_input([step]), queries[row : row + 1], keys, values, float32)
        assert np.array_equal(together[row], alone[0]), f"row {row}"


@each_isa
@each_pool
def test_many_rows_share_one_prefix(isa, float32):
    """200 branches of one or two rows each over 130 shared positions: more than one block of rows."""
    shared = list(range(130))
    steps = [
        Step(
            Sequence(
                [0] * (131 + index % 2), [*shared, *range(200 + 2 * index, 201 + 2 * index + index % 2)]
            ),
            130,
            131 + index % 2,
        )
        for index in range(200)
    ]
    together = check(isa, steps, (6, 2), 32, float32, 2)
    keys, values = pool(2, 32)
    queries = queries_of(steps, 6, 32)
    row = 0
    for step in steps:
        end = row + step.end - step.begin
        alone = attend(isa, model_input([step]), queries[row:end], keys, values, float32)
        assert np.array_equal(alone, together[row:end])
        row = end


@each_isa
@each_pool
def test_scores_far_apart_do_not_overflow(isa, float32):
    keys, values = pool(1, 32)
    keys = bf16(keys * np.float32(300))
    values = bf16(values)
    # Keys of 16 bits and queries that are powers of two: nothing is rounded before the softmax
    queries = (2.0 ** np.random.default_rng(0).integers(-1, 3, (3, 1, 32))).astype(np.float32)
    steps = [Step(Sequence([0] * 600, list(range(600))), 597, 600)]
    result = attend(isa, model_input(steps), queries, keys, values, float32)
    expected, _ = attend_by_definition(steps, queries, keys, values)
    assert np.isfinite(result).all()
    scores = np.abs(np.einsum("rhd,tgd->rt", queries, keys[:600])).max() / np.sqrt(32)
    np.testing.assert_allclose(result, expected, rtol=2e-2, atol=1e-6 * scores)


@each_isa
@each_pool
def test_keys_behind_a_row_are_not_seen(isa, float32):
    keys, values = pool(2, 32)
    steps = [Step(Sequence([0] * 64, list(range(64))), 20, 30)]
    queries = queries_of(steps, 4, 32)

    def run():
        return attend(isa, model_input(steps), queries, keys, values, float32)

    before = run()
    keys[30:], values[30:] = np.nan, np.nan  # not even keys of the plan
    assert np.array_equal(run(), before)
    keys[25:30], values[25:30] = 1e18, 1e18
    assert np.array_equal(run()[:5], before[:5])


@each_isa
@each_pool
@pytest.mark.parametrize(("heads", "num_rows"), [(4, 10), (4, 6), (4, 7), (6, 5), (2, 31)])
def test_a_row_that_is_not_finite_spoils_no_other(isa, float32, heads, num_rows):
    """Two of a sequence's rows, and then all rows of one, whatever queries are multiplied together."""
    keys, values = pool(2, 32)
    sequences = [Sequence([0] * 90, list(range(90 * index, 90 * index + 90))) for index in range(3)]
    steps = [Step(sequence, 90 - num_rows, 90) for sequence in sequences]
    queries = queries_of(steps, heads, 32)
    healthy = attend(isa, model_input(steps), queries, keys, values, float32)
    queries[2 * num_rows + 3] = np.nan
    queries[2 * num_rows + 4] = np.inf
    keys[10], values[30] = np.nan, np.inf  # of the first sequence, seen by all its rows
    result = attend(isa, model_input(steps), queries, keys, values, float32)
    touched = [*range(num_rows), 2 * num_rows + 3, 2 * num_rows + 4]
    assert not np.isfinite(result[touched]).all(axis=1).any()
    assert np.array_equal(np.delete(result, touched, axis=0), np.delete(healthy, touched, axis=0))


@each_pool
def test_a_context_of_100_000_positions(float32):
    length = 100_000
    keys, values = pool(1, 32, num_slots=length)
    steps = [Step(Sequence([0] * length, list(range(length))), length - 1, length)]
    queries = queries_of(steps, 2, 32)
    step = model_input(steps)
    result = attend(ISAS[0], step, queries, keys, values, float32, 2)
    assert np.array_equal(result, attend(ISAS[0], step, queries, keys, values, float32, 1))
    if not float32:
        keys, values = bf16(keys), bf16(values)
    expected, magnitudes = attend_by_definition(steps, queries, keys, values)
    # bfloat16 queries move scores by 2**-8 of their parts, and weights by as much
    tolerance = 1e-5 if float32 else 0.05 * magnitudes
    assert (np.abs(result - expected) <= tolerance).all()


# ---------------------------------------------------------------------------------------- what does not fit


def plan_of(step):
    segments = step.segments
    return {
        "positions": step.positions,
        "row_begin": segments.row_begin,
        "row_end": segments.row_end,
        "first_position": segments.first_position,
        "slot_offsets": segments.slot_offsets,
        "slots": segments.slots,
    }


VALID = [
    Step(Sequence([0] * 150, list(range(150))), 130, 150),
    Step(Sequence([0] * 70, list(range(70))), 69, 70),
]


def call(plan, queries, keys, values, out, isa, team=2):
    NATIVE.attention(TEAMS[team], isa, queries, keys, values, True, *plan.values(), out)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slots": 150}, "slot 150 is not in 0..149"),
        ({"slots": -1}, "slot -1 is not in 0..149"),
        ({"row_end": 22}, "outside the rows"),
        ({"row_begin": -1}, "outside the rows"),
        ({"row_begin": 21}, "outside the rows"),
        ({"first_position": 63}, "do not begin at a chunk"),
        ({"first_position": -64}, "not in order"),
        ({"first_position": 640}, "stands before the keys"),
        ({"positions": 3}, "stands before the keys"),
        ({"slot_offsets": 1000}, "no key or more than a chunk"),
        ({"slot_offsets": -1}, "no key or more than a chunk"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changed, message):
    plan = plan_of(model_input(VALID))
    keys, values = pool(1, 8, num_slots=150)
    queries = queries_of(VALID, 2, 8)
    out = np.empty((len(queries), 16), dtype=np.float32)
    call(plan, queries, keys, values, out, ISAS[0])
    for name, value in changed.items():
        plan[name] = plan[name].copy()
        plan[name][-1 if name in ("row_end", "slot_offsets") else 0] = value
    with pytest.raises(ValueError, match=message):
        call(plan, queries, keys, values, out, ISAS[0])


def test_an_empty_segment_is_refused():
    plan = plan_of(model_input(VALID))
    plan["slot_offsets"] = plan["slot_offsets"].copy()
    plan["slot_offsets"][1] = 0
    queries = queries_of(VALID, 2, 8)
    with pytest.raises(ValueError, match="no key"):
        call(plan, queries, *pool(1, 8, num_slots=150), np.empty((21, 16), dtype=np.float32), ISAS[0])


numbers = st.one_of(st.integers(-2, 200), st.sampled_from([2**31 - 1, -(2**31), 64, 128, 2**31 - 64, 2**20]))


@st.composite
def broken_plans(draw):
    """A plan with some of its numbers replaced, dropped or doubled."""
    plan = plan_of(model_input(VALID))
    for name in draw(st.sets(st.sampled_from(list(plan)), min_size=1)):
        array = plan[name].tolist()
        for _ in range(draw(st.integers(1, 3))):
            place = draw(st.integers(0, len(array)))
            array[place : place + draw(st.integers(0, 2))] = draw(st.lists(numbers, max_size=2))
        plan[name] = np.array(array, dtype=np.int32)
    return plan


@settings(max_examples=200, deadline=None)
@example(plan=plan_of(model_input(VALID)), heads=(0, 1), head_dim=8, out_shape=None, isa=ISAS[0])
@given(
    plan=broken_plans(),
    heads=st.sampled_from([(2, 1), (4, 2), (3, 2), (0, 1), (1, 0)]),
    head_dim=st.sampled_from([8, 8, 8, 0, 1, 513]),
    out_shape=st.sampled_from([None, None, None, (21, 15), (20, 16), (0, 0)]),
    isa=st.sampled_from(ISAS),
)
def test_whatever_the_arrays_hold_it_is_an_error_or_a_result(plan, heads, head_dim, out_shape, isa):
    rows = len(plan["positions"])
    queries = np.ones((rows, heads[0], head_dim), dtype=np.float32)
    keys = np.ones((150, heads[1], head_dim), dtype=np.float32)
    shape = (rows, heads[0] * head_dim) if out_shape is None else out_shape
    out = np.ones(shape, dtype=np.float32)
    try:
        call(plan, queries, keys, keys, out, isa)
    except ValueError:
        assert (out == 1).all(), "refused, and written to"
    else:
        assert out.shape == (rows, heads[0] * head_dim)
        # Of equal keys and values any mean is the same; a row without a segment has nothing
        assert (np.isclose(out, 1) | np.isnan(out)).all()
