"""Leases as clients ask for them: what stays cached through traffic, until when, and how much of the pool."""

from __future__ import annotations

import itertools
import math

import pytest
from asking import asking
from parrot import EOS, byte_tokenizer, local_backend

from ramet.config import SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.runner.fake import FakeRunner

NUM_SLOTS = 100
PREFIX = "a" * 40


class Clients:
    """Those who ask a server with a small pool, and a clock they can turn.

    Attributes:
        now: the engine's clock, in seconds.
    """

    def __init__(self):
        self.now = 0.0
        runner = FakeRunner(lambda context: EOS, num_slots=NUM_SLOTS, vocab_size=EOS + 1, context_length=8192)
        tokenizer = byte_tokenizer()
        core = EngineCore(
            runner,
            SchedulerConfig(),
            vocab=tokenizer.vocab,
            eos_token_ids=tokenizer.eos_token_ids,
            clock=lambda: self.now,
        )
        self.engine = local_backend(tokenizer, core)
        self.ask = None
        self._strangers = itertools.count(ord("A"))

    def lease(self, text, seconds, path="/cache_prefix", **more):
        return self.ask(path, {"text": text, "lease_seconds": seconds, **more})

    def cached_tokens(self, text):
        answer = self.ask("/generate", {"text": text, "sampling_params": {"max_tokens": 1}})
        return answer.json()["meta_info"]["cached_tokens"]

    @property
    def leased_tokens(self):
        return self.ask("/server_info").json()["stats"]["leased_tokens"]

    def come_and_go(self):
        """Requests, each new, that use all the room there is twice over."""
        room = (NUM_SLOTS - self.leased_tokens) // 2
        for _ in range(4):
            assert self.cached_tokens(chr(next(self._strangers)) * (room - 1)) == 0


@pytest.fixture
def clients():
    found = Clients()
    with asking(found.engine) as ask:
        found.ask = ask
        yield found


def test_a_leased_prefix_stays_cached_until_its_time_is_up(clients):
    assert clients.lease(PREFIX, 10).json()["lease_seconds"] == 10
    for now in (0.0, 9.9):
        clients.now = now
        clients.come_and_go()
        assert clients.cached_tokens(PREFIX + "b") == clients.leased_tokens == len(PREFIX)
    clients.now = 10.0
    assert clients.leased_tokens == 0
    clients.come_and_go()
    assert clients.cached_tokens(PREFIX + "b") == 0


def test_without_a_lease_it_makes_room_for_others(clients):
    clients.lease(PREFIX, 0)
    assert clients.cached_tokens(PREFIX + "b") == len(PREFIX)
    clients.come_and_go()
    assert clients.cached_tokens(PREFIX + "b") == 0


def test_who_asks_again_has_it_for_longer(clients):
    clients.lease(PREFIX, 10)
    clients.now = 8.0
    clients.lease(PREFIX, 10)
    clients.now = 17.0
    clients.come_and_go()
    assert clients.cached_tokens(PREFIX + "b") == len(PREFIX)
    clients.now = 18.0
    assert clients.leased_tokens == 0


def test_joined_branches_can_be_leased(clients):
    clients.lease("aaa", 10, "/concate_and_append_request", branches=["bbb", "ccc"])
    clients.come_and_go()
    assert clients.cached_tokens("aaabbbccc!") == clients.leased_tokens == 9


def test_leases_hold_half_of_the_pool_and_who_wants_more_is_told_so_alone(clients):
    clients.lease(PREFIX, 10)
    refused = clients.lease("b" * 11, 10)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert "leases hold 40 tokens, and 11 more would exceed 50" in refused.json()["error"]["message"]
    assert clients.lease("c" * 10, 10).status_code == 200, "what fits still does"
    never = clients.lease("d" * 51, 10)
    assert (never.status_code, never.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "at most 50, half of the KV pool" in never.json()["error"]["message"]
    clients.come_and_go()
    assert clients.cached_tokens(PREFIX + "b") == len(PREFIX)
    clients.now = 10.0
    assert clients.lease("b" * 11, 10).status_code == 200


def test_a_flush_ends_leases(clients):
    clients.lease(PREFIX, 10)
    assert clients.ask("/flush_cache").json() == {"success": True}
    assert clients.cached_tokens(PREFIX + "b") == clients.leased_tokens == 0


@pytest.mark.parametrize("seconds", [-1, 601, math.inf, math.nan, "10"])
def test_a_lease_lasts_as_long_as_the_server_allows(clients, seconds):
    assert clients.lease(PREFIX, seconds).status_code == 400
    assert clients.leased_tokens == 0
