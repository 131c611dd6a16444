"""`Endpoint`: programs on a server give what they give in this process, for the same work."""

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from parrot import parrot
from pieces import random_backend
from serving import listening

import ramet as rm
from ramet.event_loop import run_sync
from ramet.facade import Facade
from ramet.sampling_params import SamplingParams
from ramet.types import Prompt, Text


@rm.function
def survey(s, topic):
    s += "name " + topic + ":"
    s += rm.gen("first", max_tokens=12, stop="a", temperature=0)
    forks = s.fork(3)
    for index, fork in enumerate(forks):
        fork += f" item {index}" + rm.gen("detail", max_tokens=8, regex="[a-z]{2,6}", seed=index)
    s += " list" + "".join(forks[index]["detail"] for index in range(3))
    s += rm.select("side", choices=[" left", " right"])
    s += rm.gen("many", max_tokens=4, n=2, seed=5, logprobs=2)
    s += rm.user("city") + rm.assistant(rm.gen("answer", max_tokens=6, seed=1))


def everything(state):
    names = ("first", "side", "many", "answer")
    metas = {name: state.get_meta_info(name) for name in names}
    return state.text(), {name: state[name] for name in names}, metas


@contextmanager
def endpoint_of(engine, *, key=None, **options):
    """An endpoint of an engine that is served on a socket."""
    with listening(engine, api_keys=(key,) if key else ()) as url, rm.Endpoint(url, key, **options) as made:
        yield made
    engine.shutdown()


@contextmanager
def answering(*answers):
    """A server that gives these answers (status, headers, body), one after the other, the last one for ever.

    Before them, it answers what an endpoint asks at its beginning.
    """
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(200, {}, b"{}")

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            asked.append((self.path, json.loads(body)))
            answer = answers[min(len(asked), len(answers)) - 1]
            if answer is None:
                self.close_connection = True
                return
            self.answer(*answer)

        def answer(self, status, headers, body):
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


OUTPUT = {
    "text": "ok",
    "output_ids": [1],
    "index": 0,
    "meta_info": {
        "id": "x",
        "finish_reason": {"type": "stop"},
        "completion_tokens": 1,
        "prompt_tokens": 1,
        "cached_tokens": 0,
    },
}
GOOD = (200, {}, json.dumps(OUTPUT).encode())
BUSY = (
    429,
    {"Retry-After": 0},
    b'{"error": {"message": "full", "type": "overloaded_error", "code": "overloaded"}}',
)


def test_a_program_gives_the_same_on_a_server_for_the_same_work():
    local = random_backend()
    here = everything(survey.run(topic="Paris", backend=local))
    work = run_sync(local.stats())
    local.shutdown()
    with endpoint_of(random_backend()) as endpoint:
        assert everything(survey.run(topic="Paris", backend=endpoint)) == here
        stats = endpoint.stats()
    for counter in ("requests", "prompt_tokens", "cached_tokens", "computed_tokens", "generated_tokens"):
        assert getattr(stats, counter) == getattr(work, counter), counter


def test_streamed_programs_too():
    local = random_backend()
    here = survey.run(topic="Rome", backend=local, stream=True)
    pieces = "".join(here.text_iter())
    with endpoint_of(random_backend()) as endpoint:
        there = survey.run(topic="Rome", backend=endpoint, stream=True)
        assert "".join(there.text_iter()) == pieces
        assert everything(there) == everything(here)
    local.shutdown()


def test_scores_with_alternatives_are_those_of_an_engine():
    prompt, continuations = Prompt((Text("name"),)), [" age", [97, 98]]
    local = random_backend()
    here = run_sync(local.score(prompt, continuations, top_logprobs=2))
    local.shutdown()
    with endpoint_of(random_backend()) as endpoint:
        assert run_sync(endpoint.backend.score(prompt, continuations, top_logprobs=2)) == here
    assert len(here[0].top[0]) == 2


def test_generated_text_keeps_its_tokens_so_that_nothing_is_computed_twice():
    @rm.function
    def grow(s):
        s += "name age city "
        for _ in range(4):
            s += rm.gen(max_tokens=8, temperature=1.0, seed=3, ignore_eos=True)

    with endpoint_of(random_backend()) as endpoint:
        grow.run(backend=endpoint).sync()
        stats = endpoint.stats()
    # Of each later prompt, only the last token of what was generated has not been computed before.
    assert stats.generated_tokens == 32
    assert stats.prompt_tokens - stats.cached_tokens <= 6 + 3


def test_a_batch_runs_on_few_connections():
    with endpoint_of(parrot("fine"), max_connections=4) as endpoint:

        @rm.function
        def ask(s, number):
            s += f"{number}>" + rm.gen("answer")

        states = ask.run_batch([{"number": i} for i in range(300)], backend=endpoint, num_threads=256)
        assert {state["answer"] for state in states} == {"fine"}


def test_it_is_called_like_an_engine():
    with endpoint_of(parrot("fine"), key="secret", cache_salt="mine", priority=5) as endpoint:
        assert isinstance(endpoint, Facade)
        assert endpoint.generate("say>").text == "fine"
        assert [one.text for one in endpoint.generate(["a>", "b>"], max_tokens=2)] == ["fi", "fi"]
        assert "".join(chunk.text for chunk in endpoint.stream("say>")) == "fine"
        assert len(endpoint.score("say>", ["f", "x"])) == 2
        assert asyncio.run(endpoint.agenerate("say>")).text == "fine"
        assert endpoint.stats().generated_tokens > 0
        assert endpoint.model_info()["context_length"] == 8192
        assert endpoint.flush_cache()
        assert rm.flush_cache(endpoint)
        assert rm.get_server_info(endpoint)["model"] == endpoint.model_info()


def test_an_engine_in_this_process_can_be_asked_the_same():
    engine = parrot("fine")
    rm.set_default_backend(engine)
    try:
        assert rm.get_server_info()["model"]["context_length"] == 8192
        assert rm.flush_cache()
    finally:
        rm.set_default_backend(None)
        engine.shutdown()
    with pytest.raises(rm.InvalidRequest, match="set_default_backend"):
        rm.flush_cache()


def test_the_salt_of_an_endpoint_keeps_caches_apart():
    engine = parrot("fine")
    with listening(engine) as url:
        for salt, cached in (("a", False), ("a", True), ("b", False)):
            with rm.Endpoint(url, cache_salt=salt) as endpoint:
                assert (endpoint.generate("a long prompt>").usage.cached_tokens > 0) == cached
    engine.shutdown()


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda endpoint: endpoint.generate(""), rm.InvalidRequest),
        (lambda endpoint: endpoint.generate([10**6]), rm.InvalidRequest),
        (lambda endpoint: endpoint.generate("x" * 9000), rm.PromptTooLong),
        (lambda endpoint: endpoint.generate("x", constraint=rm.Regex("(")), rm.InvalidConstraint),
        (lambda endpoint: list(endpoint.stream("x", constraint=rm.Regex("("))), rm.InvalidConstraint),
        (lambda endpoint: endpoint.generate("\ud800"), rm.InvalidRequest),
    ],
)
def test_errors_are_those_of_an_engine(call, kind):
    with endpoint_of(random_backend()) as endpoint:
        with pytest.raises(rm.RametError) as raised:
            call(endpoint)
        assert type(raised.value) is kind


def test_an_engine_that_dies_says_so():
    engine = parrot("fine")
    with listening(engine) as url, rm.Endpoint(url, max_retries=0) as endpoint:
        engine.shutdown()
        with pytest.raises(rm.EngineDead):
            endpoint.generate("say>")
        with pytest.raises(rm.EngineDead):
            endpoint.stats()


def test_a_key_that_is_wrong_says_so():
    engine = parrot("fine")
    with listening(engine, api_keys=("right",)) as url:
        with pytest.raises(rm.BackendError, match="api_key") as raised:
            rm.Endpoint(url, "wrong")
        assert raised.value.status == 401
    engine.shutdown()


def test_where_nothing_listens_it_says_what_to_start():
    engine = parrot("fine")
    with listening(engine) as url:
        pass
    engine.shutdown()
    with pytest.raises(rm.BackendError, match="ramet serve") as raised:
        rm.Endpoint(url, max_retries=1)
    assert raised.value.retryable and raised.value.status is None
    with pytest.raises(rm.InvalidRequest, match="http://"):
        rm.Endpoint("localhost:8000")


def test_a_call_that_is_cancelled_is_aborted_on_the_server():
    engine = random_backend()

    async def work(endpoint):
        params = SamplingParams(max_tokens=8000, ignore_eos=True)
        prompt = Prompt((Text("x"),))
        task = asyncio.create_task(endpoint.backend.generate(prompt, params))
        stream = endpoint.backend.stream(prompt, params)
        await anext(stream)
        while (await engine.stats()).running < 2:
            await asyncio.sleep(0)
        task.cancel()
        await stream.aclose()
        while (await engine.stats()).running:
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    with listening(engine) as url, rm.Endpoint(url) as endpoint:
        asyncio.run(work(endpoint))
    engine.shutdown()


def test_a_busy_server_is_asked_again():
    with answering(BUSY, BUSY, GOOD) as (url, asked), rm.Endpoint(url) as endpoint:
        assert endpoint.generate("x").text == "ok"
        assert [path for path, _ in asked] == ["/generate"] * 3
        assert asked[0] == asked[2]


def test_not_for_ever():
    with answering(BUSY) as (url, asked), rm.Endpoint(url, max_retries=2) as endpoint:
        with pytest.raises(rm.Overloaded, match="full"):
            endpoint.generate("x")
        assert len(asked) == 3


def test_a_connection_that_ends_before_the_answer_is_made_again():
    with answering(None, GOOD) as (url, asked), rm.Endpoint(url) as endpoint:
        assert endpoint.generate("x").text == "ok"
        assert len(asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        (400, {}, b'{"error": {"message": "no", "type": "invalid_request_error"}}'),
        (500, {}, b"broken"),
        (200, {}, b'{"text": 5}'),
        (200, {"Content-Length": 100}, b'{"te'),
    ],
)
def test_nothing_else_is_asked_again(answer):
    with answering(answer) as (url, asked), rm.Endpoint(url) as endpoint:
        with pytest.raises(rm.RametError):
            endpoint.generate("x")
        assert len(asked) == 1


def test_a_stream_that_breaks_off_or_fails_raises():
    event = (
        b"data: "
        + json.dumps({**OUTPUT, "meta_info": {**OUTPUT["meta_info"], "finish_reason": None}}).encode()
    )
    error = b'data: {"error": {"message": "it broke", "type": "server_error", "code": "engine_error"}}'
    for last, kind in ((b"", rm.BackendError), (error + b"\n\ndata: [DONE]\n\n", rm.EngineError)):
        answer = (200, {}, event + b"\n\n" + last)
        with answering(answer) as (url, asked), rm.Endpoint(url) as endpoint:
            chunks = endpoint.stream("x")
            assert next(chunks).text == "ok"
            with pytest.raises(kind):
                next(chunks)
            assert len(asked) == 1
