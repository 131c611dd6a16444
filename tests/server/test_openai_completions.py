"""`/v1/completions` as JSON: prompts of all kinds, echo, logprobs, streams."""

import json

import pytest
from asking import asking
from parrot import parrot
from pieces import random_backend

REPLY = "one two"


@pytest.fixture(scope="module")
def parroting():
    with asking(parrot(REPLY), max_prompts=4) as ask:
        yield lambda body: ask("/v1/completions", {"prompt": "say>", **body})


@pytest.fixture(scope="module")
def drawing():
    with asking(random_backend()) as ask:
        yield lambda body: ask("/v1/completions", {"prompt": "name ", "seed": 1, **body})


def events_of(response):
    assert response.status_code == 200, response.text
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def gathered(events):
    """By index: the text, and the joined logprobs."""
    texts, logprobs = {}, {}
    for choice in (choice for event in events for choice in event["choices"]):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        for name, values in (choice["logprobs"] or {}).items():
            logprobs.setdefault(choice["index"], {}).setdefault(name, []).extend(values)
    return texts, logprobs


def test_a_completion(parroting):
    answer = parroting({"model": "parrot"}).json()
    assert answer["id"].startswith("cmpl-") and answer["created"] > 1_700_000_000
    assert {**answer, "id": "", "created": 0} == {
        "id": "",
        "object": "text_completion",
        "created": 0,
        "model": "parrot",
        "choices": [
            {"index": 0, "text": REPLY, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        ],
        "usage": {
            "prompt_tokens": 4,
            "completion_tokens": len(REPLY) + 1,
            "total_tokens": 4 + len(REPLY) + 1,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_sixteen_tokens_unless_told_otherwise(parroting):
    [choice] = parroting({"ignore_eos": True}).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert parroting({"ignore_eos": True}).json()["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a>", ["a>"]),
        (["a>", "bc>"], ["a>", "bc>"]),
        ([97, 62], ["a>"]),
        ([[97, 62], [98, 99, 62]], ["a>", "bc>"]),
    ],
)
def test_prompts_of_all_kinds(parroting, prompt, texts):
    answer = parroting({"prompt": prompt, "n": 2, "echo": True}).json()
    expected = [text + REPLY for text in texts for _ in range(2)]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, texts))
    events = events_of(parroting({"prompt": prompt, "n": 2, "echo": True, "stream": True}))
    assert gathered(events)[0] == dict(enumerate(expected))


def test_logprobs(parroting):
    [choice] = parroting({"logprobs": 2, "max_tokens": 3}).json()["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["o", "n", "e"]
    assert logprobs["text_offset"] == [0, 1, 2]
    for token, logprob, top in zip(*(logprobs[k] for k in list(logprobs)[:3]), strict=True):
        assert top[token] == logprob == max(top.values()) <= 0
        assert len(top) == 2


def test_logprobs_0_are_of_the_tokens_alone(parroting):
    [choice] = parroting({"logprobs": 0, "max_tokens": 2}).json()["choices"]
    assert [list(top) for top in choice["logprobs"]["top_logprobs"]] == [["o"], ["n"]]


def test_offsets_count_letters_not_bytes():
    with asking(parrot("né€!")) as ask:
        [choice] = ask("/v1/completions", {"prompt": ">", "logprobs": 0}).json()["choices"]
    offsets = dict(zip(choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"], strict=True))
    assert choice["text"] == "né€!"
    assert (offsets[0], offsets[3]) == ("n", "!")


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs_scores_the_prompt(parroting, stream):
    body = {"prompt": ["say>", "or>"], "echo": True, "logprobs": 1, "max_tokens": 3, "stream": stream}
    response = parroting(body)
    texts, logprobs = gathered(events_of(response) if stream else [response.json()])
    assert texts == {0: "say>one", 1: "or>one"}
    for index, text in texts.items():
        assert logprobs[index]["tokens"] == list(text)
        assert logprobs[index]["text_offset"] == list(range(len(text)))
        assert logprobs[index]["token_logprobs"][0] is None
        assert logprobs[index]["top_logprobs"][0] is None
        assert all(logprob <= 0 for logprob in logprobs[index]["token_logprobs"][1:])


def test_a_prompt_can_be_scored_alone(drawing):
    """What evaluation harnesses do: echo, logprobs, no tokens."""
    scored = drawing({"prompt": "name age city", "echo": True, "logprobs": 1, "max_tokens": 0}).json()
    [choice] = scored["choices"]
    assert choice["text"] == "name age city"
    assert "".join(choice["logprobs"]["tokens"]) == "name age city"
    assert choice["logprobs"]["token_logprobs"].count(None) == 1
    assert scored["usage"]["completion_tokens"] == 0
    assert scored["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_the_logprobs_of_a_prompt_are_those_it_was_generated_with(parroting):
    [made] = parroting({"logprobs": 1, "max_tokens": 3}).json()["choices"]
    body = {"prompt": "say>" + made["text"], "echo": True, "logprobs": 1, "max_tokens": 0}
    scored = parroting(body).json()["choices"][0]["logprobs"]
    assert scored["tokens"][-3:] == made["logprobs"]["tokens"] == list("one")
    assert scored["token_logprobs"][-3:] == made["logprobs"]["token_logprobs"]


def test_a_single_token_has_nothing_before_it(parroting):
    [choice] = parroting({"prompt": ">", "echo": True, "logprobs": 1, "max_tokens": 1}).json()["choices"]
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["tokens"] == [">", "o"]


def test_a_stream(parroting):
    body = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": 1,
        "return_token_ids": True,
    }
    events = events_of(parroting(body))
    whole = parroting({"logprobs": 1}).json()["choices"][0]
    texts, logprobs = gathered(events)
    assert (texts, logprobs) == ({0: REPLY}, {0: whole["logprobs"]})
    assert {event["object"] for event in events} == {"text_completion"}
    ends = [choice for event in events for choice in event["choices"] if choice["finish_reason"]]
    assert [(end["finish_reason"], end["stop_reason"]) for end in ends] == [("stop", None)]
    assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == len(REPLY) + 1
    assert events[0]["choices"][0]["prompt_token_ids"] == list(b"say>")


def test_the_same_seed_gives_the_same_text(drawing):
    texts = {drawing({"seed": seed, "max_tokens": 8}).json()["choices"][0]["text"] for seed in (3, 3, 3)}
    assert len(texts) == 1


def test_constraints(drawing):
    body = {"regex": "[a-c]{3}", "n": 3}
    for choice in drawing(body).json()["choices"]:
        assert len(choice["text"]) == 3 and set(choice["text"]) <= set("abc")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [999]}, "vocabulary"),
        ({"prompt": [2**70]}, "prompt"),
        ({"prompt": ["a"] * 5}, "prompt"),
        ({"prompt": ["a"] * 2, "n": 3}, "prompt"),
        ({"logprobs": 101}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"tools": []}, "tools"),
    ],
)
def test_what_is_wrong_is_named(parroting, given, named):
    response = parroting(given)
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]["message"]


@pytest.mark.parametrize("prompt", ["x" * 9000, [97] * 9000, ["a>", "x" * 9000]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context(parroting, prompt, stream):
    response = parroting({"prompt": prompt, "stream": stream})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_best_of_may_be_n(parroting):
    assert len(parroting({"best_of": 2, "n": 2}).json()["choices"]) == 2


def test_the_model_is_listed():
    with asking(parrot("x"), served_model_name="org/polly") as ask:
        listed = ask("/v1/models").json()
        [model] = listed["data"]
        assert (listed["object"], model["id"], model["object"]) == ("list", "org/polly", "model")
        assert (model["root"], model["max_model_len"]) == ("parrot", 4096)
        assert ask("/v1/models/org/polly").json() == model
        missing = ask("/v1/models/org/other")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
