"""Prefixes that are promised to stay: until when, how much of the pool, and when they give way after all."""

from __future__ import annotations

from driving import Driver

from ramet.errors import Overloaded, PromptTooLong


def cached(driver, request_id, token_ids, **options):
    """How many tokens of a prompt are found in the cache."""
    driver.add(request_id, token_ids, max_tokens=1, **options)
    driver.run()
    return driver.final[request_id].num_cached_tokens


def fill(driver, request_id, first=50):
    """Compute a prompt that wants all the room there is."""
    room = driver.core.cache.num_slots - driver.stats.leased_tokens
    driver.add(request_id, [first] * room, max_tokens=0)
    driver.run()


def test_a_leased_prefix_outlives_requests_that_need_room():
    driver = Driver(num_slots=100)
    driver.lease("a", range(40), 10.0)
    driver.run()
    assert driver.stats.leased_tokens == 40
    fill(driver, "b")
    assert cached(driver, "c", [*range(40), 99]) == 40


def test_without_a_lease_it_does_not():
    driver = Driver(num_slots=100)
    driver.lease("a", range(40), 0.0)
    driver.run()
    fill(driver, "b")
    assert cached(driver, "c", [*range(40), 99]) == 0


def test_a_lease_ends_at_its_deadline_and_leaves_an_ordinary_prefix():
    driver = Driver(num_slots=100)
    driver.lease("a", range(40), 10.0)
    driver.run()
    driver.now = 9.9
    assert driver.stats.leased_tokens == 40
    driver.now = 10.0
    assert driver.stats.leased_tokens == 0
    assert cached(driver, "b", [*range(40), 99]) == 40
    fill(driver, "c")
    assert cached(driver, "d", [*range(40), 98]) == 0


def test_an_expired_lease_ends_with_the_next_step_before_anything_is_evicted():
    driver = Driver(num_slots=100)
    driver.add("old", [70] * 30, max_tokens=1)
    driver.lease("a", range(40), 10.0)
    driver.run()
    driver.now = 11.0
    driver.add("b", [60] * 90, max_tokens=1)
    driver.run()
    assert driver.final["b"].error is None


def test_a_second_lease_of_a_prefix_extends_it_and_never_shortens_it():
    driver = Driver(num_slots=100)
    driver.lease("a", range(40), 10.0)
    driver.run()
    driver.now = 5.0
    driver.lease("b", range(40), 10.0)
    driver.lease("c", range(40), 1.0)
    driver.run()
    assert driver.stats.leased_tokens == 40
    driver.now = 14.9
    assert driver.stats.leased_tokens == 40
    driver.now = 15.0
    assert driver.stats.leased_tokens == 0


def test_leases_of_prefixes_that_begin_alike_count_what_they_share_once():
    driver = Driver(num_slots=100)
    driver.lease("a", range(30), 10.0)
    driver.lease("b", [*range(20), 90, 91], 20.0)
    driver.run()
    assert driver.stats.leased_tokens == 32
    driver.now = 10.0
    assert driver.stats.leased_tokens == 22
    driver.lease("c", range(10), 30.0)
    driver.run()
    assert driver.stats.leased_tokens == 22
    driver.now = 30.0
    assert driver.stats.leased_tokens == 10


def test_leases_hold_at_most_half_of_the_pool():
    driver = Driver(num_slots=100)
    driver.lease("a", range(40), 10.0)
    driver.run()
    driver.lease("b", [77] * 11, 10.0)
    driver.run()
    error = driver.final["b"].error
    assert isinstance(error, Overloaded)
    assert "leases hold 40 tokens, and 11 more would exceed 50" in str(error)
    driver.lease("c", [78] * 10, 10.0)
    driver.run()
    assert driver.final["c"].finish_reason == "length"
    driver.lease("d", [79] * 51, 10.0)
    assert isinstance(driver.final["d"].error, PromptTooLong)
    assert driver.stats.leased_tokens == 50


def test_leases_give_way_to_a_request_that_fits_the_pool_only_without_them():
    driver = Driver(num_slots=100)
    driver.lease("a", range(30), 10.0)
    driver.lease("b", [88] * 20, 20.0)
    driver.run()
    driver.add("long", [60] * 70, max_tokens=4)
    driver.run()
    assert driver.final["long"].finish_reason == "length"
    assert driver.stats.leased_tokens == 20  # the one that would have ended first made room
    driver.add("longer", [61] * 60, max_tokens=40)  # outgrows what is left while it runs
    driver.run()
    assert driver.final["longer"].finish_reason == "length"
    assert driver.stats.leased_tokens == 0


def test_a_flush_ends_leases():
    driver = Driver(num_slots=100)
    driver.lease("a", range(40), 10.0)
    driver.run()
    assert driver.flush()
    assert driver.stats.leased_tokens == 0


def test_an_aborted_lease_is_none():
    driver = Driver(num_slots=100, max_batch_tokens=8)
    driver.lease("a", range(40), 10.0)
    driver.step()
    driver.abort("a")
    assert driver.stats.leased_tokens == 0
    assert driver.flush()


def test_without_a_prefix_cache_there_is_nothing_to_lease():
    driver = Driver(num_slots=100, enable_prefix_cache=False)
    driver.lease("a", range(40), 10.0)
    driver.run()
    assert driver.final["a"].finish_reason == "length"
    assert driver.stats.leased_tokens == 0
    assert driver.stats.free_slots == 100
