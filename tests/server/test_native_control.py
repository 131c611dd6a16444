"""Health, information, flushing and aborting: what operators ask a server."""

import asyncio
import json
import threading

import httpx
import pytest
from asking import asking
from parrot import parrot
from pieces import piece_vocab, random_backend
from serving import in_process

from ramet.config import ServerConfig
from ramet.server.app import create_app
from ramet.server.native import control
from ramet.types import Prompt, Text

KEY = {"Authorization": "Bearer key"}


@pytest.fixture
def ask():
    with asking(parrot("hello"), api_keys=("key", "other")) as ask:
        yield lambda path, body=None, **options: ask(path, body, **{"headers": KEY, **options})


def test_health(ask):
    assert ask("/health", headers={}).json() == {"status": "ok"}
    assert ask("/health_generate").json() == {"status": "ok"}
    assert ask("/health_generate", headers={}).status_code == 401


def test_a_dead_engine_is_not_healthy():
    engine = parrot("hello")
    with asking(engine) as ask:
        engine.shutdown()
        for path in ("/health", "/health_generate"):
            response = ask(path)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "engine_dead"
        info = ask("/server_info").json()
        assert (info["status"], info["stats"]) == ("stopping", None)


def test_a_server_that_stops_is_not_healthy():
    engine = parrot("hello")
    app = create_app(engine, ServerConfig())

    async def statuses():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ramet") as client:
            await app.state.service.drain()
            return [(await client.get(path)).status_code for path in ("/health", "/health_generate")]

    assert asyncio.run(statuses()) == [503, 503]
    engine.shutdown()


def test_an_engine_that_hangs_is_not_healthy(monkeypatch):
    monkeypatch.setattr(control, "HEALTH_SECONDS", 0.01)
    goes_on = threading.Event()
    engine = parrot("hello", on_step=lambda context: goes_on.wait(30))
    with asking(engine) as ask:
        response = ask("/health_generate")
        assert response.status_code == 503 and response.json()["error"]["code"] == "unhealthy"
        assert ask("/health").status_code == 200
        goes_on.set()


def test_information(ask):
    info = ask("/server_info").json()
    assert info == ask("/get_server_info").json()
    assert info["stats"]["total_slots"] == info["model"]["num_slots"] == 4096
    assert info["status"] == "ok" and info["version"]
    model = ask("/get_model_info").json()
    assert model == ask("/model_info").json() == info["model"]
    assert model["is_generation"] and model["context_length"] == 8192
    assert "key" not in json.dumps(list(info["limits"].values()))
    assert ask("/server_info", headers={}).status_code == 401


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_flush_frees_every_slot(ask, method):
    ask("/generate", {"text": "say>"})
    stats = ask("/server_info").json()["stats"]
    assert stats["free_slots"] < stats["total_slots"]
    assert ask("/flush_cache", method=method).json() == {"success": True}
    stats = ask("/server_info").json()["stats"]
    assert stats["free_slots"] == stats["total_slots"]


def test_with_admin_keys_only_their_holders_flush_the_cache():
    with asking(parrot("hello"), api_keys=("key",), admin_keys=("chief",)) as ask:
        for method in ("GET", "POST"):
            refused = ask("/flush_cache", method=method, headers=KEY)
            assert refused.status_code == 403
            assert "admin key" in refused.json()["error"]["message"]
            flushed = ask("/flush_cache", method=method, headers={"X-API-Key": "chief"})
            assert flushed.json() == {"success": True}


def test_admin_keys_alone_ask_no_key_for_anything_else():
    with asking(parrot("hello"), admin_keys=("chief",)) as ask:
        assert ask("/generate", {"text": "say>"}).json()["text"] == "hello"
        assert ask("/flush_cache").status_code == 403


def test_pages_that_may_call_get_an_answer_to_their_preflight_and_others_to_nothing():
    with asking(parrot("hello"), api_keys=("key",), cors_origins=("http://friend",)) as ask:

        def page(origin, **headers):
            return {"Origin": origin, "Sec-Fetch-Site": "cross-site", **headers}

        wants = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        for origin, statuses in (("http://friend", (200, 200)), ("http://foe", (400, 403))):
            preflight = ask("/generate", method="OPTIONS", headers=page(origin, **wants))
            response = ask("/generate", {"text": "say>"}, headers=page(origin, **KEY))
            assert (preflight.status_code, response.status_code) == statuses
            allowed = [each.headers.get("Access-Control-Allow-Origin") for each in (preflight, response)]
            assert allowed == [origin if statuses == (200, 200) else None] * 2


async def streaming(client, rid, **options):
    """A request that runs until it is aborted; returns its response when it has ended."""
    body = {"text": "x", "rid": rid, "sampling_params": {"max_tokens": 8000, "ignore_eos": True}}
    return await client.post("/generate", json=body, **options)


async def until(client, number, **options):
    while (await client.get("/server_info", **options)).json()["requests_in_flight"] != number:
        await asyncio.sleep(0)


def test_running_requests_are_aborted_by_name_and_keep_the_cache():
    engine = random_backend()

    async def work():
        async with in_process(engine) as client:
            one, two = (asyncio.create_task(streaming(client, rid)) for rid in ("one", "two"))
            await until(client, 2)
            refused = await client.post("/flush_cache")
            assert refused.status_code == 400 and "2 requests" in refused.json()["error"]["message"]
            taken = await streaming(client, "two")
            assert taken.status_code == 400 and "in use" in taken.json()["error"]["message"]
            assert (await client.post("/abort_request", json={"rid": "none"})).json() == {"aborted": 0}
            assert (await client.post("/abort_request", json={"rid": "one"})).json() == {"aborted": 1}
            assert (await one).status_code == 499
            assert not two.done()
            assert (await client.post("/abort_request", json={"abort_all": True})).json() == {"aborted": 1}
            assert (await two).json()["error"]["code"] == "request_aborted"
            assert (await client.post("/flush_cache")).json() == {"success": True}

    asyncio.run(work())
    engine.shutdown()


def test_nobody_aborts_the_requests_of_others():
    engine = random_backend()
    mine, theirs = ({"Authorization": f"Bearer {name}"} for name in ("mine", "theirs"))

    async def work():
        async with in_process(engine, api_keys=("mine", "theirs")) as client:
            task = asyncio.create_task(streaming(client, "one", headers=theirs))
            await until(client, 1, headers=mine)
            for body in ({"rid": "one"}, {"abort_all": True}):
                assert (await client.post("/abort_request", json=body, headers=mine)).json() == {"aborted": 0}
            await client.post("/abort_request", json={"rid": "one"}, headers=theirs)
            assert (await task).status_code == 499

    asyncio.run(work())
    engine.shutdown()


@pytest.mark.parametrize("body", [{}, {"rid": "a", "abort_all": True}, {"rid": 5}])
def test_an_abort_says_what(ask, body):
    assert ask("/abort_request", body).status_code == 400


def test_every_path_is_documented_with_the_statuses_it_has():
    engine = parrot("x")
    paths = create_app(engine, ServerConfig()).openapi()["paths"]
    engine.shutdown()
    for path in ("/generate", "/score", "/cache_prefix", "/concate_and_append_request", "/tokenize"):
        assert {"200", "400", "401", "403", "413", "429", "499", "503"} <= paths[path]["post"][
            "responses"
        ].keys()
    for path in ("/health", "/health_generate", "/server_info", "/get_model_info", "/flush_cache"):
        assert {"200", "403", "503"} <= paths[path]["get"]["responses"].keys()


def test_a_prefix_is_cached_before_it_is_asked_for():
    engine = random_backend()
    prefix = "name age city " * 20
    with asking(engine, max_lease_seconds=5) as ask:
        cached = ask("/cache_prefix", {"text": prefix, "lease_seconds": 5}).json()
        assert cached["prompt_tokens"] > 20 and cached["lease_seconds"] == 5
        output = ask("/generate", {"text": prefix + "color", "sampling_params": {"max_tokens": 1}}).json()
        assert output["meta_info"]["cached_tokens"] >= cached["prompt_tokens"] - 1
        too_long = ask("/cache_prefix", {"text": prefix, "lease_seconds": 6})
        assert too_long.status_code == 400 and "at most 5" in too_long.json()["error"]["message"]


def test_branches_are_joined_on_the_server():
    engine = random_backend()
    with asking(engine) as ask:
        branches = [
            " left",
            [{"type": "text", "text": " right"}, {"type": "generated", "text": "a", "token_ids": [97]}],
        ]
        joined = ask("/concate_and_append_request", {"text": "name age", "branches": branches}).json()
        output = ask(
            "/generate", {"text": "name age left righta", "sampling_params": {"max_tokens": 1}}
        ).json()
        assert output["meta_info"]["prompt_tokens"] == joined["prompt_tokens"]
        assert output["meta_info"]["cached_tokens"] == joined["prompt_tokens"] - 1


def test_salts_keep_caches_apart():
    with asking(random_backend()) as ask:
        body = {"text": "name age city color", "sampling_params": {"max_tokens": 1}}
        cached = [
            ask("/generate", {**body, "cache_salt": salt}).json()["meta_info"]["cached_tokens"]
            for salt in ("a", "a", "b")
        ]
    assert cached[0] == cached[2] == 0 < cached[1]


def test_scores():
    engine = random_backend()
    with asking(engine) as ask:
        answer = ask("/score", {"text": "name", "continuations": [" age", " left"], "top_logprobs": 2}).json()
        scores = asyncio.run(engine.score(Prompt((Text("name"),)), [" age", " left"], top_logprobs=2))
        assert [score["text"] for score in answer["scores"]] == [" age", " left"]
        for sent, score in zip(answer["scores"], scores, strict=True):
            assert sent["logprobs"] == list(score.logprobs) == [sent["logprob_sum"]]
            assert sent["tokens"] == [sent["text"]] and sent["token_ids"] == list(score.token_ids)
            assert [entry[1] for entry in sent["top_logprobs"][0]] == [top.token_id for top in score.top[0]]
        by_ids = ask("/score", {"text": "name", "continuations": [list(scores[0].token_ids)]}).json()[
            "scores"
        ][0]
        assert by_ids["logprobs"] == answer["scores"][0]["logprobs"] and "top_logprobs" not in by_ids
        alone = ask("/score", {"prompt": [], "continuations": [" age"]}).json()["scores"][0]
        assert alone["logprobs"] == [None] and alone["logprob_sum"] == 0
        for wrong in (
            {"continuations": []},
            {"continuations": [""]},
            {"text": ["a"], "continuations": ["b"]},
        ):
            assert ask("/score", {"text": "name", **wrong}).status_code == 400


def test_tokens_and_text():
    with asking(random_backend()) as ask:
        one = ask("/tokenize", {"text": "name age"}).json()
        assert one["count"] == len(one["tokens"]) == 2 and one["max_model_len"] == 4096
        assert (
            ask("/tokenize", {"prompt": "name age", "add_special_tokens": False}).json()["tokens"]
            == one["tokens"]
        )
        assert ask("/tokenize", {"text": ["name", " age"]}).json()["count"] == [1, 1]
        chat = ask("/tokenize", {"prompt": [{"role": "user", "content": "name"}]}).json()
        shown = ask("/detokenize", {"tokens": chat["tokens"]}).json()["text"]
        assert "name" in shown and "USER" in shown
        assert ask("/detokenize", {"tokens": [one["tokens"], []]}).json() == {"text": ["name age", ""]}
        assert ask("/detokenize", {"tokens": [10**6]}).status_code == 400
        special = len(piece_vocab()) - 1
        for skip, text in ((True, ""), (False, "<eos>")):
            body = {"tokens": [special], "skip_special_tokens": skip}
            assert ask("/detokenize", body).json() == {"text": text}
