"""What is encoded and decoded again is equal, through real JSON; and errors keep their class."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet import errors
from ramet.constraints import Cfg, Choice, JsonSchema, Regex
from ramet.errors import BackendError, InvalidRequest, RametError
from ramet.sampling_params import SamplingParams
from ramet.server.errors import describe
from ramet.types import (
    Completion,
    Generated,
    Prompt,
    RoleBegin,
    RoleEnd,
    TemplateVariables,
    Text,
    TokenLogprob,
    Tokens,
    TopLogprob,
    Usage,
)
from ramet.wire import decode_params, decode_prompt, encode_params, encode_prompt, error_from
from ramet.wire.outputs import Output, completion_of, logprobs_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TOKEN_IDS = st.lists(st.integers(0, 200_000), max_size=5).map(tuple)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
OBJECTS = st.dictionaries(TEXTS, TEXTS, max_size=2).map(json.dumps)
PARTS = st.one_of(
    st.builds(Text, TEXTS),
    st.builds(Tokens, TOKEN_IDS),
    st.builds(Generated, TEXTS, TOKEN_IDS),
    st.builds(RoleBegin, ROLES, st.just("") | OBJECTS),
    st.builds(RoleEnd, ROLES),
    st.builds(TemplateVariables, OBJECTS),
)
CONSTRAINTS = st.one_of(
    st.builds(Regex, TEXTS),
    st.builds(JsonSchema, OBJECTS, st.none() | TEXTS),
    st.builds(Choice, st.lists(TEXTS, min_size=1, max_size=3)),
    st.builds(Cfg, TEXTS),
)
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(5, 10**6),
    min_tokens=st.integers(0, 5),
    temperature=st.floats(0, 100),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(-1, 10**6),
    stop=st.lists(TEXTS.filter(bool), max_size=3),
    stop_token_ids=TOKEN_IDS,
    stop_regex=st.lists(TEXTS.filter(bool), max_size=1),
    ignore_eos=st.booleans(),
    logit_bias=st.dictionaries(st.integers(0, 10**5), st.floats(-100, 100), max_size=3),
    seed=st.none() | st.integers(0, 2**63 - 1),
    logprobs=st.none() | st.integers(0, 100),
    n=st.integers(1, 9),
    constraint=st.none() | CONSTRAINTS,
)


def sent(value):
    return msgspec.json.decode(msgspec.json.encode(value))


@given(st.lists(PARTS, max_size=6).map(lambda parts: Prompt(tuple(parts))))
def test_prompts(prompt):
    assert decode_prompt(sent(encode_prompt(prompt))) == prompt


@given(PARAMS)
def test_sampling_parameters(params):
    assert decode_params(sent(encode_params(params))) == params


def test_defaults_are_not_sent():
    assert encode_params(SamplingParams()) == {}
    assert encode_params(SamplingParams(n=2)) == {"n": 2}


def test_parameters_written_by_hand():
    written = {
        "max_new_tokens": 5,
        "logit_bias": {"7": -1},
        "regex": "a+",
        "stop": None,
        "no_stop_trim": False,
    }
    assert decode_params(written) == SamplingParams(max_tokens=5, logit_bias={7: -1}, constraint=Regex("a+"))


@pytest.mark.parametrize(
    "written",
    [
        {"max_tokens": 5, "max_new_tokens": 5},
        {"regex": "a", "ebnf": "b"},
        {"constraint": {"type": "Wish", "pattern": "a"}},
        {"constraint": "a"},
        {"logit_bias": {"a": 1}},
        {"regex": 5},
        {"temprature": 1},
        {"no_stop_trim": True},
    ],
)
def test_parameters_that_are_refused(written):
    with pytest.raises(InvalidRequest):
        decode_params(written)


def test_what_a_client_makes_of_an_output():
    output = {
        "text": "ab",
        "output_ids": [1, 2],
        "index": 0,
        "meta_info": {
            "id": "x",
            "finish_reason": {"type": "stop", "matched": "c"},
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "cached_tokens": 1,
            "output_token_logprobs": [[-0.5, 1, "a"], [-1.0, 2, "b"]],
            "output_top_logprobs": [[[-0.5, 1, "a"]], None],
        },
    }
    top = TopLogprob(1, "a", -0.5)
    assert completion_of([msgspec.convert(output, Output)]) == Completion(
        text="ab",
        token_ids=(1, 2),
        finish_reason="stop",
        usage=Usage(3, 1, 2),
        stop_reason="c",
        logprobs=(TokenLogprob(1, "a", -0.5, (top,)), TokenLogprob(2, "b", -1.0)),
    )


RAISED = sorted(
    {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RametError)},
    key=lambda kind: kind.__name__,
)
LOCAL = {
    "BackendError",
    "ModelError",
    "UnsupportedModel",
    "CorruptWeights",
    "ProgramError",
    "UnknownVariable",
}


@pytest.mark.parametrize("kind", [kind for kind in RAISED if kind.__name__ not in LOCAL | {"RametError"}])
def test_an_error_of_a_request_keeps_its_class(kind):
    status, body = describe(kind("because"))
    for content in (json.dumps(body).encode(), body):
        error = error_from(content, status)
        assert type(error) is kind
        assert str(error) == "because"


@pytest.mark.parametrize(
    ("status", "retryable", "message"),
    [(401, False, "api_key"), (404, False, "Ramet server"), (503, True, "stopping"), (502, True, "stopping")],
)
def test_other_errors_say_what_to_do(status, retryable, message):
    error = error_from(b'{"error": {"message": "stopping", "type": "x", "code": null}}', status)
    assert type(error) is BackendError
    assert (error.status, error.retryable) == (status, retryable)
    assert message in str(error)


def test_an_answer_that_is_no_error_body_is_shown():
    assert "<html>" in str(error_from(b"<html>Bad Gateway</html>", 502))
    assert error_from(b"", 500).status == 500


def test_what_cannot_happen_stays_impossible():
    output = msgspec.json.decode(
        b'{"text":"a","output_ids":[1],"meta_info":{"id":"x","completion_tokens":1,"finish_reason":null,'
        b'"output_token_logprobs":[[-1.5,1,"a"]],"output_top_logprobs":[[[-1.5,1,"a"],[null,2,"b"]]]}}',
        type=Output,
    )
    (logprob,) = logprobs_of(output)
    assert [top.logprob for top in logprob.top] == [-1.5, float("-inf")]
