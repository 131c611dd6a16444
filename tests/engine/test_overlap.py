"""Steps that are planned while the one before them is computed: nothing changes but the order of events."""

from __future__ import annotations

import pytest
from driving import Driver
from pieces import random_backend
from test_constraints import PATTERNS, SCHEMA, ask_all

from ramet.constraints import JsonSchema, Regex
from ramet.event_loop import run_sync

CONSTRAINTS = [*map(Regex, PATTERNS), JsonSchema(SCHEMA)]


class Recorded:
    """A driver, and what its core told the runner: tokens of rows that were launched, and draws."""

    def __init__(self, **options):
        self.events = []
        self.driver = Driver(
            is_asynchronous=True,
            before_step=lambda model_input: self.events.append(model_input.input_ids.tolist()),
            before_draw=lambda sampling: self.events.append("draw"),
            **options,
        )


def test_a_step_names_the_tokens_that_the_one_before_it_draws():
    recorded = Recorded()
    recorded.driver.add("a", [5], max_tokens=3)
    recorded.driver.add("b", [7], max_tokens=3)
    assert recorded.driver.run() == [0, 2, 2, 2]
    assert recorded.events == [[5, 7], "draw", [-1, -2], "draw", [-1, -2], "draw"]
    assert recorded.driver.tokens == {"a": [6, 7, 8], "b": [8, 9, 10]}


def test_nothing_is_computed_after_the_last_token_that_may_be_drawn():
    driver = Recorded().driver
    driver.add("a", [5], max_tokens=4)
    assert sum(driver.run()) == 4


def test_a_stop_that_nobody_foresees_costs_one_row():
    driver = Recorded(eos=[8]).driver
    driver.add("a", [5], max_tokens=50)
    assert sum(driver.run()) == 4
    assert driver.tokens["a"] == [6, 7, 8]


def test_the_row_of_a_token_that_ends_one_request_is_cached_for_the_next():
    driver = Recorded(eos=[8]).driver
    driver.add("a", [5], max_tokens=50)
    driver.run()
    driver.add("b", [5, 6, 7, 8, 9], max_tokens=1)
    assert sum(driver.run()) == 1
    assert driver.final["b"].num_cached_tokens == 4


def test_branches_that_draw_the_same_token_share_it_as_soon_as_it_is_known():
    driver = Recorded(num_slots=40).driver
    for index in range(4):
        driver.add(f"0.{index}", [1] * 20, max_tokens=10, seed=index)
    driver.run()
    assert all(driver.tokens[f"0.{index}"] == list(range(2, 12)) for index in range(4))
    assert driver.stats.preemptions == 0  # 20 + 10 slots and one for each guess suffice


def test_a_request_that_is_aborted_while_its_token_is_drawn_puts_out_nothing_more():
    driver = Recorded().driver
    driver.add("a", [5], max_tokens=9)
    driver.add("b", [5], max_tokens=9)
    driver.step()
    driver.step()
    driver.abort("a")
    assert driver.tokens["a"] == [6]
    driver.run()
    assert driver.tokens["a"] == [6]
    assert driver.tokens["b"] == list(range(6, 15))
    assert driver.flush()


def test_a_preempted_request_keeps_the_token_that_was_being_drawn():
    driver = Recorded(num_slots=24).driver
    driver.add("old", [1] * 8, max_tokens=12)
    driver.add("young", [2] * 8, max_tokens=12)
    driver.run()
    assert driver.stats.preemptions > 0
    assert driver.tokens == {"old": list(range(2, 14)), "young": list(range(3, 15))}


def test_a_prefix_that_is_preempted_while_it_is_computed_is_computed_once_more():
    driver = Recorded(num_slots=40).driver
    for index in range(12):
        driver.add(str(index), [index], max_tokens=3)
    driver.step()
    driver.add("prefix", [99] * 6, max_tokens=0)
    while driver.stats.preemptions == 0:
        driver.step()
    assert "prefix" not in driver.final
    driver.run()
    assert driver.final["prefix"].finish_reason == "length"


def test_penalties_know_every_token_before_the_one_they_weigh():
    seen = []
    driver = Driver(is_asynchronous=True, before_draw=lambda sampling: seen.append(sampling.penalties))
    driver.add("a", [5], max_tokens=4, frequency_penalty=0.5)
    driver.run()
    assert [penalties.entry_token.tolist() for penalties in seen] == [[], [6], [6, 7], [6, 7, 8]]


@pytest.mark.parametrize("jump_forward", [True, False])
def test_constraints_come_out_the_same(jump_forward):
    """Masks are made of tokens that were known too late for the rows; jumps make some rows' draws void."""
    for salt in range(20):
        outputs = []
        for is_asynchronous in (False, True):
            backend = random_backend(jump_forward=jump_forward, salt=salt, is_asynchronous=is_asynchronous)
            completions = run_sync(ask_all(backend, CONSTRAINTS, seed=salt))
            outputs.append([completion.token_ids for (completion,) in completions])
            stats = run_sync(backend.stats())
            assert (stats.running, stats.waiting) == (0, 0)
            backend.shutdown()
        assert outputs[0] == outputs[1]
