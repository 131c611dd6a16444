"""Scores of token ids, and the likeliest alternatives of what is scored."""

from __future__ import annotations

import pytest
from driving import Driver
from parrot import EOS, parrot

from ramet.errors import InvalidRequest
from ramet.event_loop import run_sync
from ramet.types import Prompt, TopLogprob


@pytest.fixture
def backend():
    backend = parrot("hello")
    yield backend
    backend.shutdown()


def score(backend, prompt, *continuations, **options):
    return run_sync(backend.score(prompt, continuations, **options))


PROMPT = Prompt.of("say>")


def test_token_ids_score_as_the_text_they_spell(backend):
    scores = score(backend, PROMPT, "hé", list("hé".encode()), tuple("hé".encode()))
    assert [one.text for one in scores] == ["hé"] * 3
    assert scores[0].token_ids == scores[1].token_ids == scores[2].token_ids
    assert scores[0].logprobs == scores[1].logprobs == scores[2].logprobs
    (special,) = score(backend, PROMPT, [ord("h"), EOS])
    assert special.text == "h<eos>"


def test_alternatives_stand_beside_each_token(backend):
    (plain,) = score(backend, PROMPT, "hex")
    (with_top,) = score(backend, PROMPT, "hex", top_logprobs=3)
    assert plain.top is None
    assert with_top.logprobs == plain.logprobs
    assert [len(top) for top in with_top.top] == [3, 3, 3]
    # The parrot says "hello": "l" would have followed "he"
    assert [top[0] for top in with_top.top] == [TopLogprob(ord(c), c, -0.5) for c in "hel"]
    assert all(top == tuple(sorted(top, key=lambda entry: -entry.logprob)) for top in with_top.top)


def test_the_first_token_of_all_has_no_alternatives(backend):
    (text,) = score(backend, Prompt(), list(b"abc"), top_logprobs=2)
    assert text.logprobs[0] is None
    assert [len(top) for top in text.top] == [0, 2, 2]
    (single,) = score(backend, Prompt(), "a", top_logprobs=2)
    assert (single.logprobs, single.top) == ((None,), ((),))


def test_company_chunks_and_cached_prompts_change_no_alternative():
    def scores(**options):
        driver = Driver(**options)
        driver.add("cached", [3, 1, 4, 1], max_tokens=0)
        driver.run()
        driver.add("drawn", [3, 1, 4], max_tokens=5, logprobs=7)
        driver.add("a", [3, 1, 4, 1, 5, 9, 2, 6], score_from=2, max_tokens=0, logprobs=4)
        driver.add("b", [3, 1, 4, 1, 5, 9, 7], score_from=4, max_tokens=0, logprobs=0)
        driver.add("c", [3, 1, 4, 1, 5, 8], score_from=1, max_tokens=0, logprobs=1)
        driver.run()
        return {name: driver.logprobs[name] for name in ("drawn", "a", "b", "c")}

    expected = scores()
    assert [[len(raw.top_token_ids) for raw in raws] for raws in expected.values()] == [
        [7] * 5,
        [4] * 6,
        [0] * 3,
        [1] * 5,
    ]
    assert scores(max_batch_tokens=2) == scores(enable_prefix_cache=False) == expected


def test_alternatives_take_no_rows_of_their_own():
    driver = Driver()
    driver.add("a", [3, 1, 4, 1, 5], score_from=1, max_tokens=0, logprobs=4)
    assert driver.run() == [4]


@pytest.mark.parametrize(
    ("continuation", "options", "message"),
    [
        ([], {}, r"continuations\[0\] must be a string or a non-empty list of token ids"),
        (7, {}, r"continuations\[0\] must be a string or"),
        ("", {}, r"continuations\[0\] '' has no tokens"),
        ([1, "2"], {}, r"continuations\[0\]: a token id must be an integer, got str"),
        ([True], {}, "must be an integer, got bool"),
        ([-1], {}, "must be at least 0"),
        ([257], {}, "257 is outside the vocabulary"),
        ("a", {"top_logprobs": 101}, "top_logprobs must be between 0 and 100, got 101"),
        ("a", {"top_logprobs": None}, "top_logprobs must be an integer"),
    ],
)
def test_what_is_refused(backend, continuation, options, message):
    with pytest.raises(InvalidRequest, match=message):
        score(backend, PROMPT, continuation, **options)
    assert len(score(backend, PROMPT, "a")) == 1
