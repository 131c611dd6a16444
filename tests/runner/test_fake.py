"""The fake runner: what it answers, and that it notices every kind of wrong plan."""

import subprocess
import sys

import numpy as np
import pytest
from msgspec.structs import replace

from attention.plans import Given, Sequence, Step, execute, given, sampling_of
from ramet.errors import EngineError
from ramet.model_io import LogitBias, ModelRunner
from ramet.runner.fake import FakeRunner


def chain(*token_ids, first_slot=0):
    return Sequence(list(token_ids), list(range(first_slot, first_slot + len(token_ids))))


def test_it_predicts_from_the_whole_context_over_several_steps():
    runner: ModelRunner = FakeRunner(lambda context: sum(context), vocab_size=100)
    sequence = Sequence([t % 100 for t in range(200)], list(range(300, 500)))
    for begin, end in [(0, 70), (70, 199), (199, 200)]:
        output = execute(runner, given([Step(sequence, begin, end)]))
        assert output.token_ids.tolist() == [sum(sequence.token_ids[:end]) % 100]
    assert (runner.steps, runner.rows, runner.rows_of_steps) == (3, 200, [70, 129, 1])


def test_branches_share_a_prefix_computed_in_the_same_step():
    runner = FakeRunner(lambda context: context[0] + context[-1])
    trunk = chain(*range(1, 81))
    left = Sequence([*trunk.token_ids, 7], [*trunk.slots, 100])
    right = Sequence([*trunk.token_ids, 9], [*trunk.slots, 101])
    steps = [Step(trunk, 0, 80), Step(left, 80, 81), Step(right, 80, 81)]
    assert execute(runner, given(steps)).token_ids.tolist() == [81, 8, 10]


def test_logprobs_and_scores_are_functions_of_context_and_token():
    runner = FakeRunner(vocab_size=20)
    sampling = sampling_of([1, 2], num_top_logprobs=np.array([3, -1], dtype=np.int32))
    output = execute(
        runner, given([Step(chain(4, 5, 6), 0, 3)], sampling, score_rows=[0, 1, 2], score_token_ids=[5, 9, 7])
    )
    assert output.token_ids.tolist() == [6, 7]
    assert output.logprobs[0] == -0.5
    assert np.isnan(output.logprobs[1])
    assert output.top_token_ids[0, 0] == 6
    assert (np.diff(output.top_logprobs[0]) <= 0).all()
    assert output.score_logprobs.tolist() == [-0.5, runner.logprob((4, 5), 9), -0.5]
    assert -8 <= runner.logprob((4, 5), 9) < -1


def test_banned_tokens_are_passed_over():
    runner = FakeRunner(vocab_size=4)
    sequence = chain(1)
    bias = LogitBias(
        np.array([0, 0, 1], dtype=np.int32),
        np.array([2, 3, 0], dtype=np.int32),
        np.array([-np.inf, -np.inf, 0.1], dtype=np.float32),
    )
    output = execute(runner, given([Step(sequence, 0, 1)], sampling_of([0, 0], bias=bias)))
    assert output.token_ids.tolist() == [0, 2]


def test_a_bias_of_one_makes_another_token_the_next():
    bias = LogitBias(
        np.array([0, 1], dtype=np.int32),
        np.array([0, 2], dtype=np.int32),
        np.array([1, -1], dtype=np.float32),
    )
    sampling = sampling_of([0, 0, 0], bias=bias)
    output = execute(FakeRunner(vocab_size=4), given([Step(chain(1), 0, 1)], sampling))
    assert output.token_ids.tolist() == [0, 3, 2]


def test_tokens_outside_the_bitmask_are_passed_over():
    runner = FakeRunner(vocab_size=40)
    bitmask = np.array([[0, 0b10], [0b101, 0], [0, 0]], dtype=np.uint32)  # 33; 0 and 2; none
    bias = LogitBias(
        np.array([1], dtype=np.int32), np.array([2], dtype=np.int32), np.array([-np.inf], dtype=np.float32)
    )
    sampling = sampling_of([0, 0, 0], bitmask=bitmask, bias=bias)
    output = execute(runner, given([Step(chain(1), 0, 1)], sampling))
    assert output.token_ids.tolist() == [33, 0, -1]


def test_a_step_can_be_made_to_fail():
    def fail(_):
        raise EngineError("out of luck")

    with pytest.raises(EngineError, match="out of luck"):
        execute(FakeRunner(before_step=fail), given([Step(chain(1), 0, 1)]))


def broken(change):
    """A good second step over 70 cached positions, changed, on a runner that has done the first."""
    runner = FakeRunner()
    sequence = chain(*range(100))
    execute(runner, given([Step(sequence, 0, 70)]))
    good, sampling = given([Step(sequence, 70, 75)])
    execute(runner, Given(change(good), sampling))


def with_segments(step, **arrays):
    return replace(step, segments=replace(step.segments, **arrays))


def first_segment_only(step):
    return with_segments(
        step,
        row_begin=step.segments.row_begin[:1],
        row_end=step.segments.row_end[:1],
        first_position=step.segments.first_position[:1],
        slot_offsets=step.segments.slot_offsets[:2],
    )


def another_slot(step):
    slots = step.segments.slots.copy()
    slots[3] = 60
    return with_segments(step, slots=slots)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first_segment_only, "row 0 at position 70 attends to 64 positions"),
        (another_slot, "hold positions .*0, 1, 2, 60, 4"),
        (lambda g: with_segments(g, row_end=g.segments.row_end - 1), "row 4 at position 74 attends to 0"),
        (lambda g: with_segments(g, row_end=g.segments.row_end + 1), "there are 5 rows"),
        (lambda g: with_segments(g, first_position=g.segments.first_position + 1), "not a multiple of 64"),
        (
            lambda g: with_segments(g, first_position=g.segments.first_position[::-1]),
            r"first position 64\): its slots",
        ),
        (lambda g: replace(g, positions=g.positions + 1), "its slots .* hold positions"),
        (lambda g: replace(g, slot_ids=g.slot_ids + 4096), "slot id out of range 0..4095"),
        (lambda g: replace(g, input_ids=g.input_ids + 980), "input id out of range"),
        (lambda g: replace(g, input_ids=g.input_ids - 80), "sample of the step before out of range"),
        (lambda g: replace(g, slot_ids=g.slot_ids * 0 + 70), "slot 70 is written twice"),
        (lambda g: replace(g, logit_rows=np.array([5])), "logit_rows out of range 0..4"),
    ],
)
def test_a_wrong_plan_fails_with_the_values_that_are_wrong(change, message):
    with pytest.raises(AssertionError, match=message):
        broken(change)


def test_reading_a_slot_that_was_given_to_another_sequence_fails():
    runner = FakeRunner()
    execute(runner, given([Step(chain(1, 2, 3), 0, 3)]))
    execute(runner, given([Step(chain(9, 9, first_slot=1), 0, 2)]))
    with pytest.raises(AssertionError, match="hold positions"):
        execute(runner, given([Step(chain(1, 2, 3, 4), 3, 4)]))


def test_it_needs_no_torch():
    code = "import sys, ramet.runner.fake; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
