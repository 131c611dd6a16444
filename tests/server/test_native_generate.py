"""`/generate`: one prompt or many, whole or streamed, with logprobs of prompt and output."""

import itertools
import json

import pytest
from asking import asking
from parrot import parrot
from pieces import random_backend

REPLY = "one two"


@pytest.fixture(scope="module")
def parroting():
    with asking(parrot(REPLY), max_prompts=3) as ask:
        yield ask


@pytest.fixture(scope="module")
def drawing():
    with asking(random_backend()) as ask:
        yield ask


def events_of(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_text_is_completed(parroting):
    output = parroting("/generate", {"text": "say>", "sampling_params": {"max_new_tokens": 20}}).json()
    meta = output["meta_info"]
    assert output["text"] == REPLY
    assert bytes(output["output_ids"][:-1]).decode() == REPLY
    assert meta["finish_reason"] == {"type": "stop"}
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (4, len(REPLY) + 1)
    assert meta["e2e_latency"] > 0 and meta["id"]
    assert "output_token_logprobs" not in meta


@pytest.mark.parametrize(
    ("sampling", "reason", "text"),
    [
        ({"max_new_tokens": 3}, {"type": "length", "length": 3}, "one"),
        ({"stop": "tw"}, {"type": "stop", "matched": "tw"}, "one "),
        ({"stop_token_ids": [ord("t")]}, {"type": "stop", "matched": ord("t")}, "one "),
    ],
)
def test_it_says_why_it_ended(parroting, sampling, reason, text):
    output = parroting("/generate", {"text": "say>", "sampling_params": sampling}).json()
    assert output["meta_info"]["finish_reason"] == reason
    assert output["text"] == text


@pytest.mark.parametrize(
    "prompt",
    [
        {"text": "say>"},
        {"input_ids": list(b"say>")},
        {"prompt": "say>"},
        {"prompt": [{"type": "text", "text": "say"}, {"type": "tokens", "token_ids": [62]}]},
        {"prompt": [{"type": "generated", "text": "say>", "token_ids": list(b"say>")}]},
        {"prompt": [{"role": "user", "content": "say"}, {"role": "user", "content": "it>"}]},
    ],
)
def test_a_prompt_may_be_written_in_many_ways(parroting, prompt):
    response = parroting("/generate", {**prompt, "sampling_params": {"max_tokens": 3}})
    assert response.status_code == 200, response.text


def test_a_list_gives_a_list_each_with_its_own_parameters(parroting):
    body = {"text": ["a>", "b>"], "sampling_params": [{"max_tokens": 3}, {"max_tokens": 1, "n": 2}]}
    outputs = parroting("/generate", body).json()
    assert [(output["text"], output["index"]) for output in outputs] == [("one", 0), ("o", 1), ("o", 2)]
    assert parroting("/generate", {"input_ids": [[62]], "sampling_params": {"max_tokens": 1}}).json()[0]


def test_several_completions_are_a_list(parroting):
    outputs = parroting("/generate", {"text": "say>", "sampling_params": {"n": 2}}).json()
    assert [output["text"] for output in outputs] == [REPLY] * 2


def test_constraints_by_the_names_others_have_for_them(drawing):
    by_name = {"regex": "[ab]{3}", "choices": ["left", "right"], "json_schema": {"type": "boolean"}}
    for name, value in by_name.items():
        text = drawing("/generate", {"text": "x", "sampling_params": {name: value}}).json()["text"]
        assert {
            "regex": set(text) <= {"a", "b"} and len(text) == 3,
            "choices": text in ("left", "right"),
            "json_schema": text in ("true", "false"),
        }[name], text


def test_a_stream_tells_the_text_so_far(parroting):
    events = events_of(parroting("/generate", {"text": "say>", "stream": True}))
    texts = [event["text"] for event in events]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert texts[-1] == REPLY
    assert [event["meta_info"]["finish_reason"] is None for event in events[:-1]] == [True] * (
        len(events) - 1
    )
    last = events[-1]["meta_info"]
    assert last["finish_reason"] == {"type": "stop"}
    assert last["completion_tokens"] == len(events[-1]["output_ids"]) == len(REPLY) + 1
    assert last["prompt_tokens"] == 4


def test_an_incremental_stream_tells_what_is_new(parroting):
    body = {"text": "say>", "stream": True, "incremental": True, "return_logprob": True}
    events = events_of(parroting("/generate", body))
    assert "".join(event["text"] for event in events) == REPLY
    token_ids = [token_id for event in events for token_id in event["output_ids"]]
    assert bytes(token_ids[:-1]).decode() == REPLY
    told = [entry[1] for event in events for entry in event["meta_info"]["output_token_logprobs"]]
    assert told == token_ids


def test_several_prompts_may_be_streamed_at_once(parroting):
    body = {"text": ["a>", "b>"], "sampling_params": {"n": 2, "max_tokens": 3}, "stream": True}
    last = {event["index"]: event["text"] for event in events_of(parroting("/generate", body))}
    assert last == dict.fromkeys(range(4), "one")


def test_logprobs_of_the_prompt_and_of_the_output(drawing):
    body = {
        "text": "name age",
        "sampling_params": {"max_tokens": 4, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 2,
        "return_text_in_logprobs": True,
    }
    output = drawing("/generate", body).json()
    meta = output["meta_info"]
    assert [entry[2] for entry in meta["input_token_logprobs"]] == ["name", " age"]
    assert meta["input_token_logprobs"][0][0] is None and meta["input_token_logprobs"][1][0] < 0
    assert meta["input_top_logprobs"][0] is None and len(meta["input_top_logprobs"][1]) == 2
    assert [entry[1] for entry in meta["output_token_logprobs"]] == output["output_ids"]
    assert [top[0][1] for top in meta["output_top_logprobs"]] == output["output_ids"]  # greedy
    events = [event["meta_info"] for event in events_of(drawing("/generate", {**body, "stream": True}))]
    told = ["input_token_logprobs" in event for event in events]
    assert told[0] and told[-1] and not any(told[1:-1])  # they may be many
    streamed = events[-1]
    for name in ("input_token_logprobs", "input_top_logprobs", "output_token_logprobs"):
        assert streamed[name] == meta[name]


def test_logprobs_begin_where_asked(drawing):
    body = {"text": "name age city", "sampling_params": {"max_tokens": 0}, "return_logprob": True}
    by_start = {
        start: drawing("/generate", {**body, "logprob_start_len": start}).json()["meta_info"]
        for start in (-1, 0, 1, 2)
    }
    whole = by_start[0]["input_token_logprobs"]
    assert len(whole) == 3
    assert by_start[1]["input_token_logprobs"] == whole[1:]
    assert by_start[2]["input_token_logprobs"] == whole[2:]
    assert by_start[-1]["input_token_logprobs"] == []
    assert by_start[0]["output_token_logprobs"] == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "one of text, input_ids and prompt"),
        ({"text": "a", "input_ids": [1]}, "text and input_ids"),
        ({"text": ""}, "must not be empty"),
        ({"text": []}, "1 to 3 prompts"),
        ({"text": ["a"] * 4}, "1 to 3 prompts"),
        ({"text": "a", "sampling_params": [{}, {}]}, "as many as prompts"),
        ({"text": "a", "sampling_params": {"max_tokns": 3}}, "max_tokns"),
        ({"text": "a", "sampling_params": {"regex": "a", "choices": ["b"]}}, "one constraint"),
        ({"text": "a", "sampling_params": {"n": 2000}}, "1024 completions"),
        ({"text": "a", "sampling_params": {"skip_special_tokens": False}}, "skip_special_tokens"),
        ({"text": "a", "image_data": "http://x"}, "image_data"),
        ({"text": "a", "return_logprob": True, "logprob_start_len": 1}, "less than"),
        ({"input_ids": [5000]}, "vocabulary"),
        ({"input_ids": [-1]}, "input_ids"),
        ({"input_ids": ["1"]}, "input_ids"),
        ({"prompt": [{"type": "texts", "text": "a"}]}, "prompt[0].type"),
        ({"prompt": [{"type": "text", "txt": "a"}]}, "txt"),
        ({"prompt": [{"type": "role_begin", "role": "user", "fields": "{"}]}, "JSON"),
        ({"prompt": [{"role": "king", "content": "a"}]}, "role"),
        ({"prompt": []}, "must not be empty"),
    ],
)
def test_what_cannot_be_is_refused(parroting, body, message):
    for stream in (False, True):
        response = parroting("/generate", {**body, "stream": stream})
        assert response.status_code == 400, response.text
        assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "\\ud800"}',
        b'{"prompt": [{"type": "text", "text": "\\ud800"}]}',
        b'{"text": "a", "sampling_params": {"stop": "\\ud800"}}',
        b'{"text": "a", "sampling_params": {"temperature": NaN}}',
        b'{"input_ids": [100000000000000000000]}',
        b'{"text": "a"',
        b"[]",
    ],
)
def test_what_is_no_proper_json_is_refused(parroting, body):
    assert parroting("/generate", body).status_code == 400


def test_what_asks_for_nothing_is_ignored(parroting):
    body = {"text": "say>", "image_data": None, "lora_path": "", "return_hidden_states": False, "rid": None}
    assert parroting("/generate", body).json()["text"] == REPLY
