"""Messages survive the way to another process and back, and nothing else comes out of bytes."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet import errors
from ramet.constraints import Cfg, Choice, JsonSchema, Regex
from ramet.engine.codec import Ended, Ready, decode_messages, decode_reports, encode
from ramet.engine.messages import Abort, AddRequest, Compiled, FlushCache, GetStats, Reply, Shutdown
from ramet.errors import InvalidConstraint, InvalidRequest, RametError
from ramet.model_card import ModelCard
from ramet.sampling_params import MAX_SEED, SamplingParams
from ramet.scheduler.request import RawLogprob, RequestOutput
from ramet.stats import EngineStats

TEXT = st.text(max_size=20)
IDS = st.integers(0, 2**31 - 1)
CALLS = st.integers(0, 2**40)
CONSTRAINTS = st.one_of(
    st.builds(Regex, TEXT),
    st.builds(JsonSchema, TEXT, st.none() | TEXT),
    st.builds(Choice, st.lists(TEXT, min_size=1, max_size=3)),
    st.builds(Cfg, TEXT),
)
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(10, 1000),
    min_tokens=st.integers(0, 10),
    temperature=st.floats(0, 100),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(-1, 1000),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3),
    stop_token_ids=st.lists(IDS, max_size=3),
    stop_regex=st.sampled_from([(), ("a+",)]),
    ignore_eos=st.booleans(),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(st.integers(0, 1000), st.floats(-100, 100), max_size=3),
    seed=st.none() | st.integers(0, MAX_SEED),
    logprobs=st.none() | st.integers(0, 20),
    constraint=st.none() | CONSTRAINTS,
)
MESSAGES = st.one_of(
    st.builds(
        AddRequest,
        request_id=TEXT,
        token_ids=st.lists(IDS, max_size=20),
        params=PARAMS,
        seed=st.integers(0, 2**64 - 1),
        namespace=TEXT,
        client_id=TEXT,
        priority=st.integers(-1_000_000, 1_000_000),
        score_from=st.none() | IDS,
        lease_seconds=st.floats(0, 1e6),
    ),
    st.builds(Abort, st.lists(TEXT, max_size=3)),
    st.builds(FlushCache, CALLS),
    st.builds(GetStats, CALLS),
    st.just(Compiled()),
    st.just(Shutdown()),
)
RAW_LOGPROBS = st.builds(
    RawLogprob,
    st.floats(max_value=0) | st.just(-math.inf),
    st.lists(IDS, max_size=3),
    st.lists(st.floats(allow_nan=False), max_size=3),
)
REPORTS = st.one_of(
    st.builds(
        RequestOutput,
        request_id=TEXT,
        token_ids=st.lists(IDS, max_size=5),
        logprobs=st.lists(st.none() | RAW_LOGPROBS, max_size=5),
        releasable_text=st.none() | IDS,
        finish_reason=st.sampled_from([None, "stop", "length", "abort", "error"]),
        stop_reason=st.none() | TEXT | IDS,
        hide_last_token=st.booleans(),
        num_cached_tokens=IDS,
    ),
    st.builds(
        Reply,
        CALLS,
        st.booleans() | st.builds(EngineStats, steps=CALLS, grammar_compile_seconds=st.floats(0, 1e9)),
    ),
    st.builds(
        Ready,
        st.builds(
            ModelCard,
            name=TEXT,
            path=TEXT,
            context_length=IDS,
            max_sequence_tokens=IDS,
            vocab_size=IDS,
            num_slots=IDS,
            pool_bytes=CALLS,
            kernels=TEXT,
        ),
        st.floats(0, 1e6),
    ),
    st.just(Ended()),
)
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RametError)]


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=3))
def test_every_message_arrives_as_it_was_sent(messages):
    assert decode_messages(encode(messages)) == messages


@settings(deadline=None)
@given(st.lists(REPORTS, max_size=3))
def test_every_report_arrives_as_it_was_sent(reports):
    assert decode_reports(encode(reports)) == reports


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_keeps_its_class_and_what_it_says(kind):
    sent = RequestOutput(request_id="1", finish_reason="error", error=kind("what went wrong"))
    (output, ended) = decode_reports(encode([sent, Ended(kind("too"))]))
    assert type(output.error) is type(ended.error) is kind
    assert (str(output.error), str(ended.error)) == ("what went wrong", "too")


def test_an_error_that_is_not_ours_to_name_becomes_the_nearest_that_is():
    class Special(InvalidConstraint):
        pass

    (output,) = decode_reports(encode([RequestOutput(request_id="1", error=Special("so special"))]))
    assert type(output.error) is InvalidConstraint


@pytest.mark.parametrize("request_id", ["half a character \ud800", 2**70, object()])
def test_what_has_no_place_in_a_message_is_the_callers_error(request_id):
    with pytest.raises(InvalidRequest, match="cannot be sent to the engine"):
        encode([Abort([request_id])])


@pytest.mark.parametrize(
    "value",
    [
        [{"type": "Exec", "code": "1"}],
        [{"type": "Abort", "request_ids": "1"}],
        [{"type": "AddRequest", "request_id": "1", "token_ids": [1], "seed": 0, "params": {"top_p": 7.0}}],
        {"type": "Shutdown"},
        [["InvalidRequest", "x"]],
    ],
)
def test_bytes_that_are_no_messages_are_refused(value):
    with pytest.raises(msgspec.ValidationError):
        decode_messages(msgspec.msgpack.encode(value))
