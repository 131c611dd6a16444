"""What the core computes, counted: sharing, chunks, branches, scores, preemption, aborts, failures."""

from __future__ import annotations

import random

import pytest
from driving import Driver, count_up

from ramet.errors import EngineError, InvalidRequest, PromptTooLong, RequestAborted


def test_a_request_is_continued_until_max_tokens():
    driver = Driver()
    driver.add("a", [1, 2, 3], max_tokens=4)
    assert driver.run() == [3, 1, 1, 1]
    assert driver.tokens["a"] == [4, 5, 6, 7]
    assert driver.final["a"].finish_reason == "length"


def test_requests_that_arrive_together_compute_their_shared_prefix_once():
    driver = Driver(max_batch_tokens=100_000, num_slots=8192)
    prefix = [random.Random(1).randrange(100) for _ in range(1000)]
    own = [[(7 * i + 3 * k + i * k) % 100 for k in range(50)] for i in range(64)]
    for i in range(64):
        driver.add(f"first{i}", prefix + own[i], max_tokens=1)
    driver.run()
    assert driver.stats.computed_tokens <= 1000 + 64 * 50 + 64
    before = driver.stats.computed_tokens
    for i in range(64):
        driver.add(f"again{i}", prefix + own[i], max_tokens=1)
    driver.run()
    assert driver.stats.computed_tokens - before <= 64 * 2
    for i in range(64):
        assert driver.tokens[f"again{i}"] == driver.tokens[f"first{i}"]


def test_a_prompt_is_computed_in_chunks_of_the_budget():
    driver = Driver(max_batch_tokens=64)
    driver.add("a", range(99), max_tokens=2)
    assert driver.run() == [64, 35, 1]


def test_decoding_goes_on_while_a_long_prompt_is_computed():
    driver = Driver(max_batch_tokens=16)
    driver.add("short", [1], max_tokens=8)
    driver.step()
    driver.add("long", [5] * 100, max_tokens=1)
    for _ in range(7):
        driver.step()
    assert driver.final["short"].finish_reason == "length"


def test_a_repeated_prompt_costs_one_probe():
    driver = Driver()
    driver.add("a", range(50), max_tokens=1)
    driver.run()
    driver.add("b", range(50), max_tokens=1)
    assert driver.run() == [1]
    assert driver.tokens["a"] == driver.tokens["b"]
    assert driver.final["b"].num_cached_tokens == 49


def test_branches_of_one_prompt_share_its_last_row():
    driver = Driver()
    for i in range(8):
        driver.add(f"0.{i}", range(20), max_tokens=1)
    assert driver.run() == [20]


def test_sixteen_branches_decode_in_steps_of_sixteen_rows():
    driver = Driver(next_token=lambda context: (sum(context) + len(context)) % 100)
    prompt = [i % 90 for i in range(500)]
    driver.add("parent", prompt, max_tokens=0)
    driver.run()
    for i in range(16):
        driver.add(f"branch{i}", [*prompt, 90 + i % 10, i], max_tokens=32)
    rows = driver.run()
    assert len(rows) == 32
    assert all(count == 16 for count in rows[1:])


def test_scoring_computes_the_prompt_once_and_each_choice_once_in_one_step():
    driver = Driver()
    prompt = list(range(30))
    choices = [[40 + i, 50 + i, 60 + i] for i in range(8)]
    for i, choice in enumerate(choices):
        driver.add(f"0.{i}", prompt + choice, score_from=30, max_tokens=0)
    rows = driver.run()
    assert len(rows) == 1
    assert rows[0] == 30 + 8 * 2  # nothing follows the last token of a choice
    for i, choice in enumerate(choices):
        assert driver.tokens[f"0.{i}"] == choice
        for k, raw in enumerate(driver.logprobs[f"0.{i}"]):
            expected = driver.runner.logprob((*prompt, *choice[:k]), choice[k])
            assert raw.logprob == pytest.approx(expected)


def test_scores_are_the_same_from_cache_in_chunks_and_without_cache():
    def scores(**options):
        driver = Driver(**options)
        for _ in range(2):
            driver.final.clear()
            driver.logprobs.clear()
            driver.add("a", [3, 1, 4, 1, 5, 9, 2, 6], score_from=2, max_tokens=0)
            driver.run()
        return [raw.logprob for raw in driver.logprobs["a"]]

    assert len(scores()) == 6
    assert scores() == scores(max_batch_tokens=2) == scores(enable_prefix_cache=False)


def test_a_lone_token_has_no_score():
    driver = Driver()
    driver.add("a", [7], score_from=0, max_tokens=0)
    driver.add("b", [7, 8], score_from=0, max_tokens=0)
    driver.run()
    assert driver.logprobs["a"] == [None]
    assert driver.logprobs["b"][0] is None
    assert driver.logprobs["b"][1].logprob == pytest.approx(driver.runner.logprob((7,), 8))


def test_zero_max_tokens_computes_the_prompt_and_nothing_else():
    driver = Driver()
    driver.add("hint", range(40), max_tokens=0)
    driver.run()
    assert driver.tokens["hint"] == []
    assert driver.final["hint"].finish_reason == "length"
    driver.add("a", [*range(40), 7], max_tokens=1)
    assert driver.run() == [1]


def test_eos_ends_a_request_and_is_hidden():
    driver = Driver(eos=[5])
    driver.add("a", [1, 2, 3], max_tokens=20)
    driver.add("b", [1, 2, 3], max_tokens=20, min_tokens=4)
    driver.add("c", [1, 2, 3], max_tokens=4, ignore_eos=True)
    driver.add("d", [1, 2, 3], max_tokens=20, stop_token_ids=[6])
    driver.run()
    assert driver.tokens["a"] == [4, 5]
    assert driver.final["a"].hide_last_token
    assert 5 not in driver.tokens["b"][:4]
    assert len(driver.tokens["b"]) >= 4
    assert driver.tokens["c"] == [4, 5, 6, 7]
    assert driver.final["a"].finish_reason == "stop"


def test_generated_tokens_are_found_by_the_next_turn():
    driver = Driver()
    driver.add("turn1", [1, 2, 3], max_tokens=5)
    driver.run()
    driver.add("turn2", [1, 2, 3, *driver.tokens["turn1"], 50, 51], max_tokens=1)
    driver.run()
    assert driver.final["turn2"].num_cached_tokens == 3 + 4  # the last token was never fed back


def test_a_younger_request_gives_way_when_slots_run_out_and_finishes_later():
    driver = Driver(num_slots=64)
    driver.add("old", [1] * 20, max_tokens=30)
    driver.add("young", [2] * 20, max_tokens=30)
    driver.run()
    assert driver.stats.preemptions > 0
    assert driver.tokens["old"] == [(2 + k) % 100 for k in range(30)]
    assert driver.tokens["young"] == [(3 + k) % 100 for k in range(30)]


def test_output_is_cut_where_the_pool_ends():
    driver = Driver(num_slots=16)
    driver.add("a", [1] * 10, max_tokens=100)
    driver.run()
    assert len(driver.tokens["a"]) == 6
    assert driver.final["a"].finish_reason == "length"


@pytest.mark.parametrize(
    ("token_ids", "error", "message"),
    [
        ([], InvalidRequest, "empty"),
        ([1, 100], InvalidRequest, "100 is outside the vocabulary of 100"),
        ([1] * 17, PromptTooLong, "17 tokens, the KV pool holds 16"),
        ([1] * 16, PromptTooLong, "leave no room"),
        ([1] * 9000, PromptTooLong, "9000 tokens, the model's context is 8192"),
    ],
)
def test_what_can_never_run_is_refused_with_numbers(token_ids, error, message):
    driver = Driver(num_slots=16)
    driver.add("a", token_ids)
    assert isinstance(driver.final["a"].error, error)
    assert message in str(driver.final["a"].error)
    driver.add("b", [1, 2])
    driver.run()
    assert driver.final["b"].finish_reason == "length"


def test_a_failing_step_ends_its_requests_and_no_others():
    def fail_on_77(context):
        if 77 in context:
            raise RuntimeError("kernel exploded")
        return count_up(context)

    driver = Driver(next_token=fail_on_77)
    driver.add("bad", [1, 77, 3])
    driver.step()
    driver.add("good", [1, 2, 3])
    driver.run()
    assert isinstance(driver.final["bad"].error, EngineError)
    assert "kernel exploded" in str(driver.final["bad"].error)
    assert driver.final["good"].finish_reason == "length"
    assert driver.flush()


def test_an_aborted_request_gets_one_final_output_and_frees_its_slots():
    driver = Driver()
    driver.add("a", [1] * 100, max_tokens=50)
    driver.step()
    driver.abort("a", "never heard of")
    assert driver.final["a"].finish_reason == "abort"
    assert isinstance(driver.final["a"].error, RequestAborted)
    assert not driver.core.has_work
    driver.abort("a")
    assert driver.flush()


def test_an_abort_that_names_a_request_twice_ends_it_once():
    driver = Driver()
    driver.add("waiting", [1, 2])
    driver.abort("waiting", "waiting")
    driver.add("running", [1, 2])
    driver.step()
    driver.abort("running", "running")
    assert {final.finish_reason for final in driver.final.values()} == {"abort"}


def test_requests_that_fail_together_get_errors_of_their_own():
    def explode(context):
        raise KeyError("weights")

    driver = Driver(next_token=explode)
    driver.add("a", [1, 2])
    driver.add("b", [1, 2])
    driver.run()
    assert driver.final["a"].error is not driver.final["b"].error
    assert "KeyError: 'weights'" in str(driver.final["a"].error)


def test_a_score_of_logits_that_are_not_finite_is_an_error():
    driver = Driver()
    logprob = driver.runner.logprob
    driver.runner.logprob = lambda context, token: float("nan") if token == 66 else logprob(context, token)
    driver.add("0.0", [1, 2, 3, 66, 5], score_from=1, max_tokens=0)
    driver.add("0.1", [1, 2, 3, 67, 5], score_from=1, max_tokens=0)
    driver.run()
    assert isinstance(driver.final["0.0"].error, EngineError)
    assert "not finite" in str(driver.final["0.0"].error)
    assert driver.tokens["0.0"] == []
    assert driver.tokens["0.1"] == [2, 3, 67, 5]
    assert driver.flush()


def test_a_continuation_longer_than_the_budget_is_scored_without_computing_it_twice():
    driver = Driver(max_batch_tokens=4)
    prompt, continuation = list(range(10)), list(range(50, 59))
    driver.add("hint", prompt, max_tokens=0)
    driver.run()
    driver.add("a", prompt + continuation, score_from=10, max_tokens=0)
    assert sum(driver.run()) == 1 + len(continuation) - 1  # a probe of the prompt's last token, and no other
    driver.add("b", prompt + continuation, score_from=10, max_tokens=0)
    assert sum(driver.run()) == len(continuation)
    assert driver.logprobs["a"] == driver.logprobs["b"]


def test_penalties_weigh_the_prompt_once_and_the_output_as_often_as_it_occurs_even_after_preemption():
    seen = []

    def record(sampling):
        penalties = sampling.penalties
        if penalties is not None:
            entries = (penalties.entry_token.tolist(), penalties.entry_output_count.tolist())
            seen.append(dict(zip(*entries, strict=True)))

    sampling = {"max_tokens": 30, "repetition_penalty": 1.5, "frequency_penalty": 0.5}
    driver = Driver(num_slots=64, before_draw=record, next_token=lambda context: 8 + len(context) % 2)
    driver.add("old", [1] * 20, max_tokens=30)
    driver.add("young", [2, 8] * 10, **sampling)
    driver.run()
    assert driver.stats.preemptions > 0
    expected = [{2: 0, 8: (count + 1) // 2} | ({9: count // 2} if count > 1 else {}) for count in range(30)]
    assert seen == expected


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "8", None])
@pytest.mark.parametrize("name", ["max_batch_tokens", "max_running_requests"])
def test_limits_must_be_positive_integers(name, limit):
    with pytest.raises(InvalidRequest, match=f"{name} must be an integer of at least 1, got {limit!r}"):
        Driver(**{name: limit})


@pytest.mark.parametrize("policy", ["fcfs", "lpm"])
@pytest.mark.parametrize("reuse", [True, False])
def test_five_hundred_requests_with_aborts_over_a_small_pool(policy, reuse):
    """Every request ends with exactly one final output, and nothing leaks."""
    rng = random.Random(policy)
    driver = Driver(
        num_slots=2048,
        policy=policy,
        enable_prefix_cache=reuse,
        max_batch_tokens=256,
        next_token=lambda context: (context[-1] * 31 + len(context)) % 100,
        eos=[13],
    )
    stems = [[rng.randrange(100) for _ in range(rng.randrange(1, 300))] for _ in range(12)]
    names = [f"{i}.0" for i in range(500)]
    for name in names:
        own = [rng.randrange(100) for _ in range(rng.randrange(1, 120))]
        driver.add(name, rng.choice(stems)[: rng.randrange(1, 300)] + own, max_tokens=rng.randrange(0, 90))
        if rng.random() < 0.3:
            driver.step()
        if rng.random() < 0.15:
            driver.abort(rng.choice(names))
    while driver.core.has_work:
        driver.step()
        if rng.random() < 0.05:
            driver.abort(rng.choice(names))
    assert set(driver.final) == set(names)
    assert driver.flush()
    assert driver.stats.free_slots == 2048


def test_outputs_do_not_depend_on_batching_caching_or_preemption():
    """The same requests, alone and in a crowd over a pool too small for them."""
    rng = random.Random(3)
    prompts = [[rng.randrange(5) for _ in range(rng.randrange(1, 60))] for _ in range(40)]

    def outputs(alone, **options):
        driver = Driver(next_token=lambda context: (sum(context) * 7 + len(context)) % 100, **options)
        for index, prompt in enumerate(prompts):
            driver.add(str(index), prompt, max_tokens=20)
            if alone:
                driver.run()
        driver.run()
        return [driver.tokens[str(index)] for index in range(len(prompts))]

    expected = outputs(alone=True, enable_prefix_cache=False)
    assert outputs(alone=False) == expected
    assert outputs(alone=False, num_slots=128, max_batch_tokens=7) == expected
    assert outputs(alone=False, num_slots=128, policy="fcfs", enable_prefix_cache=False) == expected
