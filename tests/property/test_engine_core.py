"""Random requests, aborts, flushes and failing steps over tiny pools and budgets, against a plain model.

The model knows nothing of trees, slots or batches: a request's output is what the next-token function
says about its own context, whoever else is there, and whether or not steps are planned before the results
of the last one are known.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
from driving import Driver
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ramet.errors import EngineError, Overloaded, PromptTooLong, RequestAborted

EOS = 3
VOCAB = range(100)  # of the driver's runner


def next_token(context):
    """Few different tokens, so that outputs meet each other and the prompts in the tree."""
    mixed = (sum(context) * 5 + len(context) // 3 + context[-1]) % 16
    return EOS if mixed == 13 else mixed % 3


@dataclass
class Expected:
    """What a request must put out if nothing befalls it."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float | None]
    error: type[Exception] | None = None
    stopped: bool = False


def generation(
    driver, prompt, *, max_tokens, min_tokens=0, stop_token_ids=(), ignore_eos=False, logprobs=None
):
    """The output of a request, token by token."""
    limit = driver.core.max_sequence_tokens
    if len(prompt) > limit or (max_tokens > 0 and len(prompt) == limit):
        return Expected(prompt, [], [], PromptTooLong)
    max_tokens = min(max_tokens, limit - len(prompt))
    min_tokens = min(min_tokens, max_tokens)
    enders = set(stop_token_ids) | (set() if ignore_eos else {EOS})
    context, values = list(prompt), []
    while len(context) - len(prompt) < max_tokens:
        banned = enders if len(context) - len(prompt) < min_tokens else set()
        wanted = next_token(context)
        candidates = [token for shift in VOCAB if (token := (wanted + shift) % len(VOCAB)) not in banned]
        if not candidates:
            return Expected(prompt, context[len(prompt) :], values, EngineError)
        values.append(driver.runner.logprob(tuple(context), candidates[0]))
        context.append(candidates[0])
        if candidates[0] in enders:
            return Expected(prompt, context[len(prompt) :], values if logprobs else [], stopped=True)
    return Expected(prompt, context[len(prompt) :], values if logprobs else [])


def scoring(driver, token_ids, score_from):
    """The logprobs of a continuation."""
    if len(token_ids) - 1 > driver.core.max_sequence_tokens:
        return Expected(token_ids, [], [], PromptTooLong)
    values = [
        driver.runner.logprob(tuple(token_ids[:position]), token_ids[position]) if position else None
        for position in range(score_from, len(token_ids))
    ]
    return Expected(token_ids, token_ids[score_from:], values)


class CoreMachine(RuleBasedStateMachine):
    """See the module docstring."""

    prompts = st.lists(st.integers(0, 3), min_size=1, max_size=12)

    def __init__(self):
        super().__init__()
        self.expected: dict[str, Expected] = {}
        self.failing: str | None = None  # the part of a step that fails
        self.idle_steps = 0

    @initialize(
        num_slots=st.one_of(st.integers(1, 8), st.integers(12, 20), st.integers(20, 40)),
        max_batch_tokens=st.one_of(st.integers(1, 4), st.integers(5, 64)),
        max_running_requests=st.sampled_from([1, 2, 3, 100]),
        policy=st.sampled_from(["fcfs", "lpm"]),
        reuse=st.booleans(),
        is_asynchronous=st.booleans(),
    )
    def start(self, is_asynchronous, num_slots, max_batch_tokens, max_running_requests, policy, reuse):
        def predict(context):
            if self.failing == "draw":
                raise RuntimeError("the kernel failed halfway")
            return next_token(context)

        def launch(model_input):
            if self.failing == "launch":
                raise RuntimeError("the kernel failed halfway")

        self.driver = Driver(
            num_slots=num_slots,
            next_token=predict,
            before_step=launch,
            is_asynchronous=is_asynchronous,
            enable_prefix_cache=reuse,
            eos=[EOS],
            max_batch_tokens=max_batch_tokens,
            max_running_requests=max_running_requests,
            policy=policy,
        )

    def add(self, request_id, expected, token_ids, **options):
        self.expected[request_id] = expected
        self.driver.add(request_id, token_ids, **options)

    @rule(
        prompt=prompts,
        max_tokens=st.sampled_from([0, 1, 2, 5, 12, 24]),
        min_tokens=st.integers(0, 3),
        stop_token_ids=st.sampled_from([(), (), (), (7,), (1, 2), tuple(VOCAB)]),
        ignore_eos=st.booleans(),
        logprobs=st.sampled_from([None, 1]),
        n=st.sampled_from([1, 1, 1, 2, 4]),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
    )
    def generate(self, prompt, n, priority=0, **sampling):
        sampling["min_tokens"] = min(sampling["min_tokens"], sampling["max_tokens"])
        call = len(self.expected)
        for index in range(n):
            expected = generation(self.driver, prompt, **sampling)
            self.add(f"{call}.{index}", expected, prompt, seed=index, priority=priority, **sampling)

    @rule(prompt=prompts, seconds=st.integers(1, 9))
    def lease(self, prompt, seconds):
        call = len(self.expected)
        self.add(
            f"{call}.0",
            generation(self.driver, prompt, max_tokens=0),
            prompt,
            max_tokens=0,
            lease_seconds=seconds,
        )

    @rule(seconds=st.integers(1, 9))
    def time_passes(self, seconds):
        self.driver.now += seconds

    @rule(
        prompt=st.lists(st.integers(0, 3), max_size=12),
        choices=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=4),
    )
    def score(self, prompt, choices):
        call = len(self.expected)
        for index, choice in enumerate(choices):
            token_ids = prompt + choice
            expected = scoring(self.driver, token_ids, len(prompt))
            self.add(f"{call}.{index}", expected, token_ids, score_from=len(prompt), max_tokens=0)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def continue_an_output(self, data):
        """The next turn of a conversation, or a fork of one that is still being written."""
        before = data.draw(st.sampled_from(sorted(self.expected)))
        prompt = self.expected[before].prompt + self.driver.tokens[before]
        self.generate(prompt[:30], n=1, max_tokens=5, min_tokens=0)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def abort(self, data):
        request_ids = data.draw(st.lists(st.sampled_from(sorted(self.expected)), min_size=1, max_size=3))
        self.driver.abort(*request_ids)

    @rule()
    def flush(self):
        free = self.driver.flush()
        assert free or self.driver.core.has_work

    @rule(count=st.integers(1, 6))
    def steps(self, count):
        for _ in range(count):
            self.step()

    @rule(part=st.sampled_from(["launch", "draw"]))
    def failing_step(self, part):
        self.failing = part
        logging.disable()  # the engine logs each failure
        self.step()
        logging.disable(logging.NOTSET)
        self.failing = None

    def step(self):
        had_work, finished = self.driver.core.has_work, len(self.driver.final)
        rows = self.driver.step()
        progress = rows > 0 or len(self.driver.final) > finished or not had_work
        self.idle_steps = 0 if progress else self.idle_steps + 1
        assert self.idle_steps < 3, "there is work, and it is not done"

    @invariant()
    def outputs_are_what_the_model_says(self):
        for request_id, expected in self.expected.items():
            tokens, final = self.driver.tokens[request_id], self.driver.final.get(request_id)
            assert tokens == expected.tokens[: len(tokens)]
            got = [None if raw is None else raw.logprob for raw in self.driver.logprobs[request_id]]
            assert got == pytest.approx(expected.logprobs[: len(got)])
            if final is None:
                continue
            assert final.num_cached_tokens < len(expected.prompt)
            if isinstance(final.error, RequestAborted):
                assert final.finish_reason == "abort"
            elif isinstance(final.error, EngineError) and "halfway" in str(final.error):
                assert final.finish_reason == "error"
            elif isinstance(final.error, Overloaded):  # leases hold too much already
                assert (len(tokens), final.finish_reason) == (0, "error")
            elif isinstance(final.error, PromptTooLong) and "leases" in str(final.error):
                assert len(expected.prompt) > self.driver.core.cache.num_slots // 2
            elif expected.error is not None:
                assert isinstance(final.error, expected.error)
            else:
                assert final.error is None
                assert tokens == expected.tokens
                assert len(got) in (0, len(tokens)) and len(got) == len(expected.logprobs)
                assert final.finish_reason == ("stop" if expected.stopped else "length")

    def teardown(self):
        if not self.expected:
            return
        while self.driver.core.has_work:
            self.step()
        self.outputs_are_what_the_model_says()
        assert set(self.driver.final) == set(self.expected)
        assert self.driver.flush()
        stats = self.driver.stats
        assert (stats.running, stats.waiting, stats.free_slots) == (0, 0, stats.total_slots)


TestCore = CoreMachine.TestCase
TestCore.settings = settings(max_examples=300, stateful_step_count=40, deadline=None, derandomize=True)
