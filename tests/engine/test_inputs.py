"""The arrays of a step: which rows they hold, in which order chunks stand, which tokens are banned."""

from __future__ import annotations

import random

import numpy as np
import pytest
from driving import Driver

from ramet.engine import inputs
from ramet.model_io import CHUNK_TOKENS


@pytest.fixture(params=["few keys", "many keys"])
def both_ways(request, monkeypatch):
    """Plans of few keys are made in another way than larger ones."""
    monkeypatch.setattr(inputs, "FEW_KEYS", {"few keys": 1 << 30, "many keys": 0}[request.param])


in_both_ways = pytest.mark.usefixtures("both_ways")


def drive(**options):
    """A driver, and the list of all model inputs it will compute."""
    seen = []
    return Driver(before_step=seen.append, **options), seen


def plan_of(segments):
    """Each segment as (first position, its rows, number of slots)."""
    lengths = np.diff(segments.slot_offsets)
    rows = zip(segments.row_begin.tolist(), segments.row_end.tolist(), strict=True)
    return list(zip(segments.first_position.tolist(), rows, lengths.tolist(), strict=True))


@in_both_ways
def test_branches_share_whole_chunks_and_take_an_unfinished_one_along():
    driver, seen = drive()
    prompt = [i % 90 for i in range(CHUNK_TOKENS + 10)]
    driver.add("parent", prompt, max_tokens=0)
    driver.run()
    for i in range(2):
        driver.add(f"branch{i}", [*prompt, 95 + i], max_tokens=1)
    driver.run()
    assert seen[-1].input_ids.tolist() == [95, 96]
    assert seen[-1].positions.tolist() == [74, 74]
    assert plan_of(seen[-1].segments) == [(0, (0, 2), 64), (64, (0, 1), 11), (64, (1, 2), 11)]
    first, second = seen[-1].segments.slots[64:75], seen[-1].segments.slots[75:]
    assert first[:10].tolist() == second[:10].tolist()
    assert [first[10], second[10]] == seen[-1].slot_ids.tolist()


@in_both_ways
def test_rows_read_only_the_chunks_up_to_their_own():
    driver, seen = drive(max_batch_tokens=100)
    driver.add("a", [i % 90 for i in range(150)], max_tokens=1)
    driver.run()
    assert [plan_of(step.segments) for step in seen] == [
        [(0, (0, 100), 64), (64, (64, 100), 36)],
        [(0, (0, 50), 64), (64, (0, 50), 64), (128, (28, 50), 22)],
    ]


@in_both_ways
def test_chunks_of_several_requests_stand_in_order_of_position():
    driver, seen = drive()
    for name, length in (("long", 130), ("short", 60)):
        driver.add(name, [(7 * i + length) % 100 for i in range(length)], max_tokens=2)
    driver.run()
    assert plan_of(seen[-1].segments) == [
        (0, (0, 1), 64),
        (0, (1, 2), 61),
        (64, (0, 1), 64),
        (128, (0, 1), 3),
    ]


@in_both_ways
def test_probes_stand_before_the_rows_without_kv():
    driver, seen = drive()
    prompt = [i % 90 for i in range(80)]
    driver.add("cached", prompt, max_tokens=0)
    driver.run()
    driver.add("scored", [*prompt, 7, 8], score_from=61, max_tokens=0)
    driver.add("continued", prompt[:70], max_tokens=1)
    driver.run()
    step = seen[-1]
    # Row by row: the tokens before those that are scored, one of which another request continues
    assert step.positions.tolist() == list(range(60, 81))
    assert step.input_ids.tolist() == [*prompt[60:], 7]
    assert step.score_token_ids.tolist() == [*prompt[61:], 7, 8]
    assert step.logit_rows.tolist() == list(range(21))
    # The prompt was cut in two nodes where the other request ends
    assert plan_of(step.segments) == [
        (0, (0, 21), 64),
        (64, (4, 10), 6),
        (64, (10, 20), 16),
        (64, (20, 21), 17),
    ]


def test_plans_of_few_keys_and_of_many_are_alike(monkeypatch):
    plans = {}
    for few_keys in (1 << 30, 0):
        monkeypatch.setattr(inputs, "FEW_KEYS", few_keys)
        choice = random.Random(5)
        driver, seen = drive(max_batch_tokens=200)
        for name in range(60):
            prompt = [choice.randrange(2)] * choice.randrange(1, 200) + [name]
            options = {"score_from": choice.randrange(len(prompt)), "max_tokens": 0}
            driver.add(str(name), prompt, **choice.choice([{}, options]))
            driver.step()
        driver.run()
        plans[few_keys] = [plan_of(step.segments) + step.segments.slots.tolist() for step in seen]
    first, second = plans.values()
    assert first == second


def test_what_would_end_a_request_is_banned_until_min_tokens():
    seen = []
    driver = Driver(eos=[3], before_draw=seen.append)
    driver.add("free", [10], max_tokens=3)
    driver.add("bound", [20], max_tokens=3, min_tokens=1, stop_token_ids=(9, 1))
    driver.run()
    bias = seen[0].bias
    assert bias.entry_sample.tolist() == [1, 1, 1]
    assert bias.entry_token.tolist() == [1, 3, 9]
    assert np.isneginf(bias.entry_value).all()
    assert seen[1].bias is None
