"""Who asks and how soon it is wanted: priorities, salts, and the limit of the queue."""

from __future__ import annotations

import asyncio

import pytest
from driving import Driver, request
from parrot import parrot
from pieces import random_backend

from ramet.constraints import Regex
from ramet.errors import InvalidRequest, Overloaded
from ramet.event_loop import run_sync
from ramet.sampling_params import SamplingParams
from ramet.scheduler.policy import LPM_MAX_STEPS_WAITED
from ramet.types import Prompt, RequestOptions


def finishing_order(driver):
    driver.run()
    return list(driver.final)


# ------------------------------------------------------------------------------------------ priority


@pytest.mark.parametrize("policy", ["fcfs", "lpm"])
def test_a_lower_priority_value_is_admitted_first(policy):
    driver = Driver(max_running_requests=1, policy=policy)
    for i, priority in enumerate([5, -1, 5, 0, -1]):
        driver.add(f"{priority}:{i}", [i, i, i], priority=priority)
    assert finishing_order(driver) == ["-1:1", "-1:4", "0:3", "5:0", "5:2"]


def test_the_longest_match_goes_first_within_a_priority_only():
    driver = Driver(max_running_requests=1)
    driver.add("known", range(20))
    driver.run()
    driver.add("new, later", [60, 61], priority=1)
    driver.add("matches, later", [*range(20), 70], priority=1)
    driver.add("new, soon", [50, 51])
    driver.add("matches, soon", [*range(20), 80])
    assert finishing_order(driver)[1:] == ["matches, soon", "new, soon", "matches, later", "new, later"]


def test_nobody_starves_within_a_priority():
    driver = Driver(max_running_requests=1)
    driver.add("hot0", range(20), max_tokens=1)
    driver.add("cold", [90, 91], max_tokens=1, priority=1)
    driver.add("cold, later", [92, 93], max_tokens=1, priority=1)
    steps = 0
    while "cold" not in driver.final:  # there is always another one of its priority with a longer match
        steps += 1
        driver.add(f"hot{steps}", [*range(20), 21], max_tokens=1, priority=1)
        driver.step()
        assert steps < 2 * LPM_MAX_STEPS_WAITED
    driver.run()
    assert set(driver.final) == {*(f"hot{i}" for i in range(steps + 1)), "cold", "cold, later"}


def test_who_gives_way_is_the_youngest_of_the_least_urgent():
    driver = Driver(num_slots=64)
    for name, first, priority in [("urgent", 10, 0), ("late", 20, 2), ("later", 30, 2), ("youngest", 40, 1)]:
        driver.add(name, [first] * 3, max_tokens=22, priority=priority)
    assert finishing_order(driver)[0] == "urgent"
    assert driver.stats.preemptions > 0
    assert list(driver.final).index("later") > list(driver.final).index("youngest")


# --------------------------------------------------------------------------------------------- salts


def test_requests_share_cached_prefixes_under_the_same_salt_only():
    backend = parrot("hi")

    async def computed(**options):
        before = (await backend.stats()).computed_tokens
        await backend.generate(
            Prompt.of("a long shared prompt>"), SamplingParams(), options=RequestOptions(**options)
        )
        return (await backend.stats()).computed_tokens - before

    async def ask():
        return [
            await computed(cache_salt=salt, client_id=client)
            for salt, client in [("", "a"), ("", "b"), ("x", "a"), ("y", "a"), ("x", "b"), ("y", "b")]
        ]

    whole = len("a long shared prompt>")
    assert run_sync(ask()) == [whole, 1, whole, whole, 1, 1]
    backend.shutdown()


def test_salts_hold_for_streams_scores_and_prefixes_too():
    backend = parrot("hi")
    prompt, params = Prompt.of("a long shared prompt>"), SamplingParams(max_tokens=2)

    async def cached(salt):
        options = RequestOptions(cache_salt=salt)
        async for chunk in backend.stream(prompt, params, options=options):
            if chunk.completion is not None:
                streamed = chunk.completion.usage.cached_tokens
        (score,) = await backend.score(prompt, ["x"], options=options)
        return streamed, score.usage.cached_tokens

    async def ask():
        await backend.cache_prefix(prompt, options=RequestOptions(cache_salt="tenant"))
        return await cached("other"), await cached("tenant")

    whole = len("a long shared prompt>")
    (first, scored), (again, scored_again) = run_sync(ask())
    assert (first, again) == (0, whole - 1)
    assert scored == scored_again == whole
    backend.shutdown()


def test_a_lease_is_of_its_salt_and_its_seconds_are_checked():
    backend = parrot("hi", num_slots=64)
    prompt = Prompt.of("leased prompt>")

    async def ask():
        await backend.cache_prefix(prompt, lease_seconds=60, options=RequestOptions(cache_salt="tenant"))
        leased = (await backend.stats()).leased_tokens
        with pytest.raises(InvalidRequest, match="lease_seconds must be between"):
            await backend.cache_prefix(prompt, lease_seconds=float("inf"))
        await backend.flush_cache()
        return leased, (await backend.stats()).leased_tokens

    assert run_sync(ask()) == (len("leased prompt>"), 0)
    backend.shutdown()


# ------------------------------------------------------------------------------------ limit of the queue


def test_requests_beyond_the_limit_are_refused_at_once_and_the_others_are_served():
    driver = Driver(max_running_requests=1, max_waiting_requests=2)
    driver.add("running", [1])
    driver.step()
    for name in "abcd":
        driver.add(name, [ord(name) % 50])
    assert list(driver.final) == ["c", "d"]
    error = driver.final["c"].error
    assert isinstance(error, Overloaded)
    assert "2 requests are waiting, and 1 more would exceed the limit of 2" in str(error)
    assert driver.stats.requests == 3
    driver.run()
    assert all(driver.final[name].error is None for name in ("running", "a", "b"))


def test_branches_of_a_call_are_accepted_or_refused_together():
    driver = Driver(max_running_requests=1, max_waiting_requests=3)
    driver.handle(*(request(f"0.{i}", [1, 2]) for i in range(2)))
    driver.handle(*(request(f"1.{i}", [3, 4]) for i in range(2)))
    assert list(driver.final) == ["1.0", "1.1"]
    assert all(isinstance(final.error, Overloaded) for final in driver.final.values())
    driver.handle(request("2.0", [5]))
    driver.run()
    assert all(driver.final[name].error is None for name in ("0.0", "0.1", "2.0"))


def test_what_waits_for_its_grammar_counts():
    backend = random_backend(max_waiting_requests=4)

    async def ask():
        slow = [Regex(f"(a|b)*a(a|b){{20}}{i}") for i in range(12)]
        calls = [
            backend.generate(Prompt.of("go>"), SamplingParams(constraint=constraint)) for constraint in slow
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        return [type(outcome) for outcome in outcomes].count(Overloaded), await backend.stats()

    refused, stats = run_sync(ask())
    assert refused > 0
    assert stats.requests + refused == 12
    assert (stats.running, stats.waiting) == (0, 0)
    backend.shutdown()


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_a_limit_is_a_positive_integer(limit):
    with pytest.raises(InvalidRequest, match="max_waiting_requests must be an integer of at least 1"):
        Driver(max_waiting_requests=limit)
