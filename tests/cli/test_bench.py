from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import asynccontextmanager

import pytest

from ramet import BackendError, InvalidRequest
from ramet.cli.bench_client import Answer, Client
from ramet.cli.bench_load import Load
from ramet.cli.bench_run import Run, run_load, summarize

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(text="", finish=None, *, id="a", index=0, **more) -> bytes:  # noqa: A002
    choice = {"index": index, "text": text, "finish_reason": finish}
    return b"data: " + json.dumps({"id": id, "choices": [choice], **more}).encode() + b"\n\n"


def usage(prompt, completion, cached=0) -> bytes:
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return b"data: " + json.dumps({"id": "a", "choices": [], "usage": counts}).encode() + b"\n\n"


def chunked(*pieces) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@asynccontextmanager
async def server(*replies):
    """A server that gives each connection the next of these bytes, again from the start after the last."""
    remaining = itertools.cycle(replies)
    asked = []

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        asked.append((head, await reader.readexactly(length)))
        writer.write(next(remaining))
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", asked
    finally:
        listener.close()
        await listener.wait_closed()


def ask(*replies, **options) -> tuple[Answer, list]:
    """The answer of a server that replies so, and what it was asked."""

    async def run():
        async with server(*replies) as (url, asked):
            client = Client(url, **options)
            return await client.ask("m", "Hi", max_tokens=3, temperature=0), asked

    return asyncio.run(run())


def test_a_stream_is_put_together_and_counted():
    stream = chunked(event("Hel"), event("lo") + event("!"), event(finish="stop"), usage(5, 3, 4), DONE, b"")
    answer, ((head, body),) = ask(HEAD + stream, api_key="secret")
    assert (answer.error, answer.text) == (None, "Hello!")
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (5, 4, 3)
    assert len(answer.gaps) == 2
    assert 0 < answer.first <= answer.total
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in head
    assert json.loads(body)["prompt"] == "Hi"


def test_an_event_may_arrive_in_pieces():
    whole = event("Hello") + event(finish="stop") + DONE
    answer, _ = ask(HEAD + chunked(*(bytes([byte]) for byte in whole), b""))
    assert (answer.error, answer.text) == (None, "Hello")


def test_chat_chunks():
    deltas = [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}]
    events = [
        b"data: " + json.dumps({"id": "c", "choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"
        for delta in deltas
    ]
    answer, ((head, body),) = ask(HEAD + chunked(*events, event(finish="stop", id="c"), DONE, b""), chat=True)
    assert (answer.error, answer.text) == (None, "Hi")
    assert head.startswith(b"POST /v1/chat/completions ")
    assert json.loads(body)["messages"] == [{"role": "user", "content": "Hi"}]


def test_an_answer_that_is_no_stream():
    body = {
        "id": "c",
        "choices": [{"message": {"content": "Hi there"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }
    content = json.dumps(body).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    answer, ((_, asked),) = ask(reply, chat=True, stream=False)
    assert (answer.error, answer.text, answer.completion_tokens) == (None, "Hi there", 2)
    assert "stream" not in json.loads(asked)


BROKEN = {
    "HTTP 429": b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}",
    "no finish_reason": HEAD + chunked(event("a"), DONE, b""),
    "no [DONE]": HEAD + chunked(event("a"), event(finish="stop"), b""),
    "an event after [DONE]": HEAD + chunked(event(finish="stop"), DONE, event("a"), b""),
    "text after the end": HEAD + chunked(event(finish="stop"), event("a"), DONE, b""),
    "two ends in one stream": HEAD + chunked(event(finish="stop"), event(finish="stop"), DONE, b""),
    "chunks with different ids in one stream": HEAD + chunked(event("a"), event("b", id="b"), DONE, b""),
    "a choice that nobody asked for": HEAD + chunked(event("a", index=1), DONE, b""),
    "more chunks with text than tokens": HEAD
    + chunked(event("a"), event("b", "stop"), usage(1, 1), DONE, b""),
    "error event: boom": HEAD + chunked(event("a"), b'data: {"error": {"message": "boom"}}\n\n', b""),
    "cut at another length than asked for": HEAD + chunked(event("a", "length"), usage(1, 1), DONE, b""),
    "the connection was closed before the end": HEAD + chunked(event("a")),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_is_wrong_with_a_stream_has_a_name(reason):
    answer, _ = ask(BROKEN[reason])
    assert answer.error == reason


def test_nobody_listens():
    async def run():
        async with server(b"") as (url, _):
            pass
        client = Client(url)
        with pytest.raises(BackendError, match="there is no server at"):
            await client.model()
        return await client.ask("m", "Hi", max_tokens=1, temperature=0)

    assert asyncio.run(run()).error.startswith("ConnectionRefusedError")


def test_the_model_is_the_first_that_is_listed():
    body = b'{"object": "list", "data": [{"id": "tiny"}, {"id": "other"}]}'
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def run():
        async with server(reply) as (url, asked):
            return await Client(f"{url}/v1/").model(), asked

    name, ((head, _),) = asyncio.run(run())
    assert name == "tiny"
    assert head.startswith(b"GET /v1/models ")


def test_a_url_must_be_one():
    with pytest.raises(InvalidRequest, match="--url"):
        Client("localhost:8000")


# ------------------------------------------------------------------------------------------------ load


def test_prompts_are_new_in_every_run_unless_there_is_a_seed():
    def prompts(**options):
        return list(Load(requests=8, prompt_tokens=40, **options).prompts())

    assert prompts() != prompts()
    assert prompts(seed=3) == prompts(seed=3)
    assert len(set(prompts())) == 8
    assert {len(prompt.split()) for prompt in prompts()} == {40}


def test_the_prompts_of_a_group_begin_alike():
    load = Load(requests=9, prompt_tokens=20, shared_prefix_tokens=12, prefix_groups=3)
    prefixes = [" ".join(prompt.split()[:12]) for prompt in load.prompts()]
    assert len(set(prefixes)) == 3
    assert prefixes[:3] == prefixes[3:6] == prefixes[6:]


def test_arrivals_have_the_rate_asked_for():
    moments = list(Load(requests=4000, request_rate=20.0, seed=1).moments())
    assert moments == sorted(moments)
    assert moments[-1] == pytest.approx(200, rel=0.1)
    assert set(Load(requests=5).moments()) == {0.0}


@pytest.mark.parametrize(
    "wrong", [{"requests": 0}, {"request_rate": 0.0}, {"prompt_tokens": 4, "shared_prefix_tokens": 5}]
)
def test_loads_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidRequest, match=next(reversed(wrong))):
        Load(**wrong)


def test_a_run_asks_everything_and_no_more_at_once_than_it_may():
    inside, most = 0, 0
    prompts = []

    class Counting:
        async def ask(self, model, prompt, *, max_tokens, temperature):
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            prompts.append(prompt)
            for _ in range(10):  # long enough for others to begin
                await asyncio.sleep(0)
            inside -= 1
            return Answer(completion_tokens=max_tokens)

    load = Load(requests=30, concurrency=4, seed=5)
    run = asyncio.run(run_load(Counting(), "m", load, lambda answer: None))
    assert prompts == list(load.prompts())
    assert len(run.answers) == 30
    assert most == 4


def test_verified_requests_are_asked_again_alone_and_must_say_the_same():
    class Forgetful:
        """Says something else the second time it is asked for the third prompt."""

        def __init__(self):
            self.asked = []

        async def ask(self, model, prompt, *, max_tokens, temperature):
            self.asked.append(prompt)
            differs = self.asked.count(prompt) == 2 and prompt == self.asked[2]
            return Answer(prompt=prompt, text=prompt.upper() + "!" * differs)

    load = Load(requests=6, concurrency=1, seed=5, verify=4)
    client = Forgetful()
    run = asyncio.run(run_load(client, "m", load, lambda answer: None))
    assert len(client.asked) == 10
    assert summarize(run).errors == {"another text than when asked again alone": 1}
    assert run.answers[2].error is not None
    with pytest.raises(InvalidRequest, match="temperature"):
        Load(verify=1, temperature=0.5)


def test_figures_of_a_run():
    good = [
        Answer(
            first=0.1 * n, gaps=[0.01] * 3, total=n, prompt_tokens=10, cached_tokens=5, completion_tokens=4
        )
        for n in range(1, 101)
    ]
    summary = summarize(Run([*good, Answer(error="HTTP 429"), Answer(error="HTTP 429")], 50.0, 0.5))
    assert (summary.requests, summary.completed, summary.errors) == (102, 100, {"HTTP 429": 2})
    assert (summary.requests_per_second, summary.output_tokens_per_second) == (2.0, 8.0)
    assert (summary.prompt_tokens, summary.cached_tokens) == (1000, 500)
    assert summary.end_to_end == {"p50": 50, "p90": 90, "p99": 99}
    assert summary.inter_token == {"p50": 0.01, "p90": 0.01, "p99": 0.01}


def test_figures_of_nothing():
    summary = summarize(Run([Answer(error="timeout")], 1.0, 0.0))
    assert summary.time_to_first_token == {}


def test_the_command_prints_tables_and_writes_json(ramet, tmp_path):
    body = b'{"data": [{"id": "tiny"}]}'
    models = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    stream = HEAD + chunked(event("a"), event("b", "length"), usage(10, 64, 4), DONE, b"")

    async def run():
        async with server(models, stream, stream) as (url, _):
            flags = ["--url", url, "--requests", 2, "--json", tmp_path / "figures.json"]
            return await asyncio.to_thread(ramet, "bench", "serve", *flags)

    outcome = asyncio.run(run())
    assert outcome.exit_code == 0, outcome.stderr
    assert "2 of 2" in outcome.stdout
    assert "40.0%" in outcome.stdout
    assert "time to first token" in outcome.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["completed"], figures["output_tokens"]) == (2, 128)
