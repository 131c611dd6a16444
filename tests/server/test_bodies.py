"""How bodies are read, whichever interface they are for."""

from __future__ import annotations

import gc
import json

import pytest
from asking import asking
from reciting import HERMES, reciting

from ramet.server.native.bodies import GenerateBody
from ramet.server.openai.schemas import CompletionBody

PATHS = ["/v1/completions", "/generate"]
PROMPT = {"/v1/completions": "prompt", "/generate": "text"}


@pytest.fixture(scope="module")
def ask():
    with asking(reciting("hi", template=HERMES)) as ask:
        yield ask


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Field required"),
        (b" ", "truncated"),
        (b'{"PROMPT": "a"', "truncated"),
        (b'{"PROMPT": "a",}', "trailing comma"),
        (b'{"PROMPT": "a"} more', "trailing"),
        (b'{"PROMPT": "a\n"}', "invalid character"),
        (b'{"PROMPT": "\xff"}', "utf-8"),
        (b'{"PROMPT": "\xed\xa0\x80"}', "utf-8"),  # half of a surrogate pair
        (b'{"PROMPT": "\\ud800"}', "surrogate"),
        (b'{"PROMPT": "\\udc00 and more"}', "surrogate"),
        (b'{"PROMPT": "a", "\\ud800": 1}', "surrogate"),
        (b'{"PROMPT": "a", "temperature": NaN}', "invalid character"),
        (b'{"PROMPT": "a", "temperature": Infinity}', "invalid character"),
        (b'{"PROMPT": "a", "temperature": 1e999}', "out of range"),
        (b'{"PROMPT": "a", "seed": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"PROMPT": ' + b"[" * 5000 + b"]" * 5000 + b"}", "recursion"),
        (b'{"PROMPT": "a", "metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, "recursion"),
        ('{"PROMPT": "a"}'.encode("utf-16"), "invalid character"),
        (b"[]", "dictionary"),
        (b"null", "dictionary"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_body_is_refused(ask, path, content, why):
    response = ask(path, content.replace(b"PROMPT", PROMPT[path].encode()))
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", None)
    assert error["message"].startswith("the body is not valid: ") and why in error["message"]


@pytest.mark.parametrize("path", PATHS)
def test_only_json_is_read(ask, path):
    content = json.dumps({PROMPT[path]: "a"}).encode()
    for kind, status in [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.mine+json", 200),
        ("text/plain", 400),
        ("application/x-www-form-urlencoded", 400),
    ]:
        assert ask(path, content, headers={"content-type": kind}).status_code == status, kind


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"PROMPT": "a"}',
        b'{"PROMPT": 1, "PROMPT": "a"}',
        b'\r\n{ "PROMPT" :\t"\\ud83d\\ude00" } ',
    ],
)
def test_what_json_allows_is_read(ask, path, content):
    """A byte order mark, a name that comes twice (the last one counts), surrogates in pairs."""
    assert ask(path, content.replace(b"PROMPT", PROMPT[path].encode())).status_code == 200


def test_large_integers_meet_their_limits(ask):
    for seed in (2**63, 2**64, 10**400):
        error = ask("/v1/completions", {"prompt": "a", "seed": seed}).json()["error"]
        assert error["message"] == "seed: Input should be less than 9223372036854775808"
        assert error["param"] == "seed"
    assert ask("/v1/completions", {"prompt": "a", "seed": 2**63 - 1}).status_code == 200
    error = ask("/generate", {"text": "a", "priority": 2**64}).json()["error"]
    assert error["message"] == "priority: Input should be less than or equal to 1000000"
    error = ask("/generate", {"input_ids": [2**64]}).json()["error"]
    assert "18446744073709551616 is outside the vocabulary" in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", '{"prompt": "a", "metadata": %s}'),
        ("/v1/completions", '{"prompt": "a", "json_schema": %s}'),
        (
            "/v1/chat/completions",
            '{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": %s}',
        ),
        ("/generate", '{"text": "a", "sampling_params": {"json_schema": %s}}'),
        ("/generate", '{"prompt": [%s]}'),
    ],
)
def test_no_depth_is_a_failure(ask, path, body):
    """What can just be read cannot always be written."""
    for depth in range(900, 1000, 3):
        content = body % ('{"a":' * depth + "1" + "}" * depth)
        assert ask(path, content.encode()).status_code in (200, 400), depth


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (CompletionBody, {"prompt": [[1] for _ in range(50_000)]}),
        (CompletionBody, {"prompt": [[1] for _ in range(50_000)], "n": 0}),
        (GenerateBody, {"input_ids": [[1] for _ in range(50_000)]}),
    ],
)
def test_nobody_looks_for_garbage_while_a_body_is_read(model, body):
    before = sum(each["collections"] for each in gc.get_stats())
    try:
        model.model_validate(body)
    except ValueError:
        assert body["n"] == 0
    assert sum(each["collections"] for each in gc.get_stats()) - before < 10
    assert gc.isenabled()


def test_tools_nested_up_to_and_over_the_limit_are_no_error_of_the_server():
    with asking(reciting("hi")) as ask:  # its template knows no tools: they are written out as JSON
        statuses = set()
        for depth in (100, *range(800, 1000, 3)):
            parameters = b'{"items":' * depth + b"{}" + b"}" * depth
            body = (
                b'{"messages":[{"role":"user","content":"x"}],"max_tokens":1,"tools":[{"type":"function",'
                b'"function":{"name":"f","parameters":' + parameters + b"}}]}"
            )
            statuses.add(ask("/v1/chat/completions", body).status_code)
    assert statuses == {200, 400}
