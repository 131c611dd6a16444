from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from ramet.config import ServerConfig
from ramet.server.gate import Gate, GateMiddleware

FOREVER = 3600.0


async def echo(scope, receive, send):
    """Says who asked and how long the body was."""
    body, state = (await receive())["body"], scope["state"]
    facts = {"client": state.get("client_id"), "is_admin": state.get("is_admin"), "bytes": len(body)}
    await JSONResponse(facts)(scope, receive, send)


class Door:
    """A gate before an application."""

    def __init__(self, app=echo, **options):
        config = ServerConfig(**options)
        self.gate = Gate(config)
        self.app = GateMiddleware(app, self.gate, config)

    async def ask(self, method="POST", path="/v1/completions", **request):
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ramet") as client:
            return await client.request(method, path, **request)

    async def call(self, receive, headers=()):
        """The status of a response to a body that arrives as ``receive`` says; nobody need answer."""
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": list(headers)}
        statuses = []

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self.app(scope, receive, send)
        return statuses


def code(response):
    return response.json()["error"]["code"]


def in_loop(test):
    return lambda: asyncio.run(test())


# ------------------------------------------------------------------------------------------------- keys


@in_loop
async def test_without_keys_everybody_is_let_in():
    response = await Door().ask()
    assert response.status_code == 200
    assert response.json()["client"] == ""


@in_loop
async def test_with_keys_one_of_them_is_needed():
    door = Door(api_keys=("first", "second"))
    for headers in (
        {},
        {"Authorization": "Bearer third"},
        {"Authorization": "Basic first"},
        {"X-API-Key": ""},
    ):
        refused = await door.ask(headers=headers)
        assert (refused.status_code, code(refused)) == (401, "invalid_api_key")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    for headers in (
        {"Authorization": "Bearer second"},
        {"Authorization": "bearer  first"},
        {"X-API-Key": "first"},
    ):
        assert (await door.ask(headers=headers)).status_code == 200


@in_loop
async def test_clients_are_told_apart_by_their_keys_and_the_keys_not_given_away():
    door = Door(api_keys=("first", "second"))
    names = [
        (await door.ask(headers={"Authorization": f"Bearer {key}"})).json()["client"]
        for key in ("first", "second", "first")
    ]
    assert names[0] == names[2] != names[1]
    assert not {"first", "second"} & set(names)


@in_loop
async def test_health_is_open_and_metrics_are_not():
    door = Door(api_keys=("first",))
    assert (await door.ask("GET", "/health")).status_code == 200
    assert (await door.ask("GET", "/metrics")).status_code == 401


@in_loop
async def test_who_has_an_admin_key_is_a_client_and_an_admin():
    door = Door(api_keys=("ordinary", "both"), admin_keys=("chief", "both"))
    for key, is_admin in (("ordinary", False), ("chief", True), ("both", True)):
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
            seen = (await door.ask(headers=headers)).json()
            assert seen["client"] and seen["is_admin"] is is_admin
    for headers in ({}, {"X-API-Key": "neither"}):
        assert (await door.ask(headers=headers)).status_code == 401


@in_loop
async def test_admin_keys_alone_shut_nobody_out():
    door = Door(admin_keys=("chief",))
    for headers in ({}, {"Authorization": "Bearer none"}):
        seen = (await door.ask(headers=headers)).json()
        assert (seen["client"], seen["is_admin"]) == ("", False)
    seen = (await door.ask(headers={"Authorization": "Bearer chief"})).json()
    assert seen["client"] and seen["is_admin"]


@in_loop
async def test_without_admin_keys_everybody_who_is_let_in_is_one():
    assert (await Door().ask()).json()["is_admin"]
    assert (await Door(api_keys=("key",)).ask(headers={"X-API-Key": "key"})).json()["is_admin"]


# --------------------------------------------------------------------------------------------- web pages


@in_loop
async def test_web_pages_of_other_origins_are_refused():
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},  # an image, a link: no Origin
        {"Sec-Fetch-Site": "same-site", "Origin": "http://ramet:3000"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://ramet"},
        {
            "Origin": "http://elsewhere"
        },  # a browser that does not trust the connection sends no Sec-Fetch-Site
        {"Origin": "http://ramet:3000"},
        {"Origin": "null"},
    ):
        refused = await Door(cors_origins=("http://friend",)).ask(headers=headers)
        assert (refused.status_code, code(refused)) == (403, "cross_origin"), headers
        assert "--cors-origin" in refused.json()["error"]["message"]


@in_loop
async def test_pages_of_the_server_itself_and_programs_are_not():
    for headers in (
        {},
        {"Sec-Fetch-Site": "none"},  # typed into the address bar
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://outside"},  # a proxy has changed Host
        {"Origin": "http://ramet"},
        {"Origin": "https://Ramet"},  # a proxy does the HTTPS
        {"Origin": "http://ramet:9000", "Host": "ramet:9000"},
    ):
        assert (await Door().ask(headers=headers)).status_code == 200, headers


@in_loop
async def test_pages_that_may_call_are_let_in():
    page = {"Sec-Fetch-Site": "cross-site", "Origin": "http://friend"}
    assert (await Door(cors_origins=("http://friend",)).ask(headers=page)).status_code == 200
    assert (await Door(cors_origins=("*",)).ask(headers=page)).status_code == 200
    assert (
        await Door(cors_origins=("http://friend",)).ask(headers={"Origin": "http://friend"})
    ).status_code == 200


@in_loop
async def test_any_page_may_ask_for_health_and_no_more():
    page = {"Sec-Fetch-Site": "cross-site"}
    assert (await Door().ask("GET", "/health", headers=page)).status_code == 200
    assert (await Door().ask("GET", "/metrics", headers=page)).status_code == 403


# ------------------------------------------------------------------------------------------------ limits


@in_loop
async def test_a_body_that_says_it_is_too_large_is_not_read():
    async def receive():
        raise AssertionError("nobody should read")

    door = Door(max_body_bytes=10)
    assert await door.call(receive, [(b"content-length", b"11")]) == [413]
    assert (await door.ask(content=b"0123456789")).json()["bytes"] == 10


@in_loop
async def test_a_body_that_does_not_say_is_read_up_to_the_limit():
    received = 0

    async def receive():
        nonlocal received
        received += 4
        return {"type": "http.request", "body": b"abcd", "more_body": True}

    assert await Door(max_body_bytes=10).call(receive) == [413]
    assert received == 12


@in_loop
async def test_a_body_that_does_not_come_is_not_waited_for():
    async def receive():
        await asyncio.sleep(FOREVER)

    door = Door(body_seconds=0.01)
    assert await door.call(receive) == [408]
    assert door.gate.num_inside == 0


@in_loop
async def test_a_client_that_leaves_before_its_body_has_come_is_no_error():
    async def receive():
        return {"type": "http.disconnect"}

    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.disconnect"

    door = Door(app)
    assert await door.call(receive) == []
    assert door.gate.responses == {("none", 499): 1}


@in_loop
async def test_only_so_many_are_inside_and_the_rest_come_back_later():
    inside, leave = asyncio.Semaphore(0), asyncio.Event()

    async def slow(scope, receive, send):
        inside.release()
        await leave.wait()
        await Response()(scope, receive, send)

    door = Door(slow, max_requests=3)
    entered = [asyncio.create_task(door.ask()) for _ in range(3)]
    for _ in entered:
        await inside.acquire()
    refused = [await door.ask() for _ in range(5)]
    assert {(response.status_code, code(response)) for response in refused} == {(429, "overloaded")}
    assert all(int(response.headers["Retry-After"]) > 0 for response in refused)
    assert door.gate.num_turned_away == 5
    watching = asyncio.create_task(door.ask("GET", "/metrics"))
    await inside.acquire()  # it is let in all the same
    leave.set()
    assert {task.result().status_code for task in (await asyncio.wait([*entered, watching]))[0]} == {200}
    assert door.gate.num_inside == 0
    assert (await door.ask()).status_code == 200


@in_loop
async def test_while_the_server_drains_nobody_is_let_in_but_those_who_watch():
    door = Door()
    door.gate.draining = True
    refused = await door.ask()
    assert (refused.status_code, code(refused)) == (503, "stopping")
    assert int(refused.headers["Retry-After"]) > 0
    for path in ("/health", "/metrics", "/server_info"):
        assert (await door.ask("GET", path)).status_code == 200


@in_loop
async def test_a_request_that_fails_makes_room_again():
    async def broken(scope, receive, send):
        raise ZeroDivisionError

    door = Door(broken, max_requests=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await door.ask()
    assert door.gate.num_inside == 0


# --------------------------------------------------------------------------------------------------- log


def test_every_request_is_one_line_and_one_set_of_facts(caplog):
    async def app(scope, receive, send):
        scope["state"]["log"]["prompt_tokens"] = 7
        await Response(status_code=202)(scope, receive, send)

    async def run():
        door = Door(app, api_keys=("sesame",))
        await door.ask(headers={"X-API-Key": "sesame", "X-Request-Id": "mine"})
        await door.ask(path='/a "strange" path', headers={"X-Request-Id": "x" * 200})

    with caplog.at_level(logging.INFO, logger="ramet.server.access"):
        asyncio.run(run())
    first, second = caplog.records
    assert first.getMessage().startswith(
        "request_id=mine method=POST path=/v1/completions status=202 seconds="
    )
    assert first.getMessage().endswith(" prompt_tokens=7")
    assert first.facts["client"]
    assert second.facts["status"] == 401
    assert second.facts["request_id"] != "x" * 200
    assert "\n" not in second.getMessage()
    assert "sesame" not in caplog.text


@in_loop
async def test_a_response_carries_the_id_of_its_request():
    assert (await Door().ask(headers={"X-Request-Id": "mine"})).headers["X-Request-Id"] == "mine"
    drawn = [(await Door().ask()).headers["X-Request-Id"] for _ in range(2)]
    assert drawn[0] != drawn[1]
