"""`/v1/chat/completions` as JSON: shapes, extras, and what is refused."""

import json

import pytest
from asking import asking
from pieces import random_backend
from reciting import TURN, reciting

REPLY = "Well, hello"
HELLO = [{"role": "user", "content": "Hello?"}]
RENDERED = f"user: Hello?\n{TURN}"


@pytest.fixture(scope="module")
def reciter():
    with asking(reciting(REPLY), max_prompts=4) as ask:
        yield lambda body: ask("/v1/chat/completions", {"messages": HELLO, **body})


@pytest.fixture(scope="module")
def drawer():
    with asking(random_backend()) as ask:
        yield lambda body: ask("/v1/chat/completions", {"messages": HELLO, **body})


def events_of(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def joined(events, index=0):
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


# ------------------------------------------------------------------------------------------------ shapes


def test_an_answer(reciter):
    answer = reciter({"model": "parrot"}).json()
    assert answer["id"].startswith("chatcmpl-") and answer["created"] > 1_700_000_000
    assert {**answer, "id": "", "created": 0} == {
        "id": "",
        "object": "chat.completion",
        "created": 0,
        "model": "parrot",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": REPLY, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": len("user: Hello?\n") + 1,
            "completion_tokens": len(REPLY) + 1,
            "total_tokens": len("user: Hello?\n") + 1 + len(REPLY) + 1,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_what_was_computed_before_is_reported_as_cached(reciter):
    body = {"messages": [{"role": "user", "content": "Asked twice"}]}
    first, second = reciter(body).json()["usage"], reciter(body).json()["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] < second["prompt_tokens_details"]["cached_tokens"]
    assert second["prompt_tokens_details"]["cached_tokens"] == second["prompt_tokens"] - 1


def test_several_answers_count_their_prompt_once(reciter):
    body = {"n": 3, "messages": [{"role": "user", "content": "Thrice"}], "cache_salt": "unseen"}
    answer = reciter(body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {REPLY}
    usage = answer["usage"]
    assert usage["prompt_tokens"] == len("user: Thrice\n") + 1
    assert usage["completion_tokens"] == 3 * (len(REPLY) + 1)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


@pytest.mark.parametrize(
    ("given", "content", "reason", "stop_reason"),
    [
        ({"max_tokens": 4}, "Well", "length", None),
        ({"max_completion_tokens": 4, "max_tokens": 9}, "Well", "length", None),
        ({"stop": ["zzz", ", "]}, "Well", "stop", ", "),
        ({"stop_regex": "h.l"}, "Well, ", "stop", "h.l"),
        ({"stop_token_ids": [ord(",")]}, "Well", "stop", ord(",")),
        ({"min_tokens": 5, "stop": ["Well", "lo"]}, "Well, hel", "stop", "lo"),
        ({"ignore_eos": True, "max_tokens": 12}, REPLY, "length", None),
        ({"max_tokens": 0}, "", "length", None),
    ],
)
def test_when_it_ends(reciter, given, content, reason, stop_reason):
    [choice] = reciter(given).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)
    assert choice["stop_reason"] == stop_reason


def test_without_a_limit_the_answer_may_take_the_rest_of_the_context(drawer):
    usage = drawer({"ignore_eos": True, "seed": 1}).json()["usage"]
    assert usage["total_tokens"] == 4096  # the pool of this engine, which is smaller than its context


def test_logprobs_have_bytes(reciter):
    [choice] = reciter({"logprobs": True, "top_logprobs": 2, "max_tokens": 2}).json()["choices"]
    entries = choice["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == ["W", "e"]
    assert [entry["bytes"] for entry in entries] == [[ord("W")], [ord("e")]]
    for entry in entries:
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0] == {name: entry[name] for name in ("token", "logprob", "bytes")}
    assert choice["logprobs"]["refusal"] is None


def test_logprobs_without_alternatives(reciter):
    [choice] = reciter({"logprobs": True, "max_tokens": 1}).json()["choices"]
    assert choice["logprobs"]["content"][0]["top_logprobs"] == []


def test_token_ids_on_request(reciter):
    answer = reciter({"return_token_ids": True, "max_tokens": 4}).json()
    assert bytes(answer["choices"][0]["token_ids"]) == b"Well"
    assert bytes(answer["prompt_token_ids"][:-1]).decode() == "user: Hello?\n"
    events = events_of(reciter({"return_token_ids": True, "max_tokens": 4, "stream": True}))
    assert events[0]["prompt_token_ids"] == answer["prompt_token_ids"]
    assert all("prompt_token_ids" not in event for event in events[1:])
    ids = [token for event in events for choice in event["choices"] for token in choice["token_ids"]]
    assert bytes(ids) == b"Well"


# ------------------------------------------------------------------------------------------------ streams


def test_a_stream(reciter):
    events = events_of(reciter({"stream": True}))
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    assert joined(events) == REPLY
    first, last = events[0]["choices"][0], events[-1]["choices"][0]
    assert first["delta"]["role"] == "assistant"
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", None)
    assert all("role" not in event["choices"][0]["delta"] for event in events[1:])
    assert all("usage" not in event for event in events)


def test_a_stream_ends_with_its_usage_on_request(reciter):
    events = events_of(reciter({"stream": True, "stream_options": {"include_usage": True}}))
    assert [event["usage"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == len(REPLY) + 1


def test_usage_with_every_event_on_request(reciter):
    body = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    events = events_of(reciter(body))
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts) and counts[-1] == len(REPLY) + 1
    assert {event["usage"]["prompt_tokens"] for event in events} == {len("user: Hello?\n") + 1}


def test_streams_of_several_answers_are_told_apart(reciter):
    events = events_of(reciter({"stream": True, "n": 3}))
    assert [joined(events, index) for index in range(3)] == [REPLY] * 3
    ends = [c["index"] for event in events for c in event["choices"] if c["finish_reason"]]
    assert sorted(ends) == [0, 1, 2]


def test_a_stream_has_the_logprobs_of_the_whole(reciter):
    body = {"logprobs": True, "top_logprobs": 1}
    [whole] = reciter(body).json()["choices"]
    events = events_of(reciter({**body, "stream": True}))
    pieces = [entry for event in events for c in event["choices"] for entry in c["logprobs"]["content"]]
    assert pieces == whole["logprobs"]["content"]


# --------------------------------------------------------------------------------- what goes into the prompt


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({}, RENDERED),
        ({"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be."}]}, *HELLO]},
         f"system: Be.\n{RENDERED}"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "We"}], "continue_final_message": True},
         f"{RENDERED}We"),
        ({"add_generation_prompt": False}, "user: Hello?\n"),
    ],
)  # fmt: skip
def test_prompts(reciter, body, prompt):
    answer = reciter({**body, "return_token_ids": True, "max_tokens": 1}).json()
    shown = "".join(TURN if token == 257 else chr(token) for token in answer["prompt_token_ids"])
    assert shown == prompt


def test_an_answer_that_was_begun_is_continued(reciter):
    messages = [*HELLO, {"role": "assistant", "content": "Well, "}]
    answer = reciter({"messages": messages, "continue_final_message": True}).json()
    assert answer["choices"][0]["message"]["content"] == "hello"


# ------------------------------------------------------------------------------------------- constraints


@pytest.mark.parametrize(
    "given",
    [
        {"regex": "(cat|dog) [0-9]{2}"},
        {"guided_regex": "(cat|dog) [0-9]{2}"},
        {"structured_outputs": {"regex": "(cat|dog) [0-9]{2}"}},
        {"ebnf": 'root ::= ("cat" | "dog") " " [0-9] [0-9]'},
        {"guided_grammar": 'start: ("cat" | "dog") " " /[0-9][0-9]/'},
        {"structured_outputs": {"grammar": 'start: ("cat" | "dog") " " /[0-9][0-9]/'}},
        {"guided_choice": ["cat 12", "dog 99"]},
        {"structured_outputs": {"choice": ["cat 12", "dog 99"]}},
    ],
)
def test_constraints_of_all_names(drawer, given):
    content = drawer(given).json()["choices"][0]["message"]["content"]
    animal, number = content.split(" ")
    assert animal in ("cat", "dog") and len(number) == 2 and number.isdigit()


SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}, "age": {"type": "integer", "maximum": 99}},
    "required": ["city", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "given",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
            }
        },
        {"json_schema": SCHEMA},
        {"json_schema": json.dumps(SCHEMA)},
        {"guided_json": SCHEMA},
        {"structured_outputs": {"json": SCHEMA}},
    ],
)
def test_schemas_of_all_names(drawer, given):
    value = json.loads(drawer(given).json()["choices"][0]["message"]["content"])
    assert value["city"] in ("Rome", "Paris") and value["age"] <= 99


@pytest.mark.parametrize("seed", range(4))
def test_json_object(drawer, seed):
    body = {"response_format": {"type": "json_object"}, "seed": seed, "messages": [*HELLO] * (seed + 1)}
    [choice] = drawer({**body, "max_tokens": 1500}).json()["choices"]
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)
    else:
        assert choice["message"]["content"].startswith("{")


def test_response_format_text_is_no_constraint(reciter):
    answer = reciter({"response_format": {"type": "text"}}).json()
    assert answer["choices"][0]["message"]["content"] == REPLY


# ----------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n:"),
        ({"n": 5}, "n must be at most 4"),
        ({"stop": [""]}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"logit_bias": {"one": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 101}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"json_schema": {"type": "nothing"}}, "json_schema"),
        ({"regex": "("}, "position"),
        ({"regex": "a", "ebnf": 'root ::= "a"'}, "regex, ebnf"),
        ({"ebnf": "root ::= other"}, "other"),
        ({"ebnf": 'root ::= "a'}, "GBNF"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"suffix": "and so on"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"max_tokenz": 3}, "max_tokenz"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"cache_salt": "x" * 300}, "cache_salt"),
        ({"priority": 10**9}, "priority"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
        ({"stop": "\ud800"}, "surrogate"),
    ],
)
def test_what_is_wrong_is_named(reciter, given, named):
    response = reciter(given)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert named in error["message"]


def test_a_prompt_over_the_context(reciter):
    response = reciter({"messages": [{"role": "user", "content": "x" * 9000}]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_another_model(reciter):
    response = reciter({"model": "gpt-99"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "harmless",
    [
        {"user": "me", "store": True, "metadata": {"a": "b"}, "service_tier": "auto"},
        {"suffix": None, "best_of": 1, "echo": False, "functions": [], "function_call": "none"},
        {"skip_special_tokens": True, "use_beam_search": False, "length_penalty": 1.0, "documents": None},
        {"temperature": None, "stop": None, "tools": None, "stream": None, "seed": -1},
        {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.0, "priority": -3, "logit_bias": {"1": -100}},
    ],
)
def test_what_changes_nothing_is_taken(reciter, harmless):
    response = reciter(harmless)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == REPLY


def test_an_answer_is_named_by_its_request(reciter):
    assert reciter({"request_id": "mine"}).json()["id"] == "chatcmpl-mine"
