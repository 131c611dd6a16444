"""The official client against a server behind a real socket: what its users do."""

import ast
import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import httpx
import openai
import pytest
from pieces import random_backend
from pydantic import BaseModel
from reciting import reciting
from serving import listening

from ramet.server.openai.tool_formats import HERMES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "clients"
REPLY = "Well, hello there"
HELLO = [{"role": "user", "content": "Hello?"}]


class GetWeather(BaseModel):
    """The weather in a city."""

    city: Literal["Rome", "Paris"]
    days: int


class Verdict(BaseModel):
    guilty: bool
    judge: Literal["strict", "mild"]
    charges: list["Charge"]


class Charge(BaseModel):
    act: Literal["theft", "fraud"]
    within: list["Charge"]


@pytest.fixture(scope="module")
def reciter():
    engine = reciting(REPLY)
    with listening(engine) as url:
        yield url
    engine.shutdown()


@pytest.fixture(scope="module")
def client(reciter):
    with openai.OpenAI(base_url=f"{reciter}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def drawer():
    engine = random_backend()
    with (
        listening(engine) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as found,
    ):
        yield found
    engine.shutdown()


def test_the_models(client):
    [model] = client.models.list()
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError) as failure:
        client.models.retrieve("other/model")
    assert failure.value.code == "model_not_found"


def test_a_chat(client):
    answer = client.chat.completions.create(model="parrot", messages=HELLO)
    assert answer.choices[0].message.content == REPLY
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len(REPLY) + 1
    assert answer.usage.prompt_tokens_details.cached_tokens is not None


def test_a_streamed_chat(client):
    stream = client.chat.completions.create(
        model="parrot", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *events, last = list(stream)
    assert "".join(event.choices[0].delta.content or "" for event in events) == REPLY
    assert events[0].choices[0].delta.role == "assistant"
    assert [e.choices[0].finish_reason for e in events if e.choices[0].finish_reason] == ["stop"]
    assert last.choices == [] and last.usage.completion_tokens == len(REPLY) + 1


def test_the_helper_for_streams(client):
    with client.chat.completions.stream(model="parrot", messages=HELLO, logprobs=True) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert text == final.choices[0].message.content == REPLY
    assert len(final.choices[0].logprobs.content) == len(REPLY) + 1


def test_completions(client):
    whole = client.completions.create(
        model="parrot", prompt=["One", "Two"], max_tokens=3, echo=True, logprobs=1
    )
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.choices[1].text.startswith("Two")
    assert whole.choices[0].logprobs.text_offset == [0, 1, 2, 3, 4, 5]
    stream = client.completions.create(model="parrot", prompt="One", max_tokens=3, stream=True, temperature=0)
    [whole] = client.completions.create(model="parrot", prompt="One", max_tokens=3, temperature=0).choices
    assert "".join(event.choices[0].text for event in stream) == whole.text


def test_many_at_once_from_asyncio(reciter):
    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{reciter}/v1", api_key="none", max_retries=0) as client:

            async def whole(index):
                messages = [{"role": "user", "content": f"Hello {index}?"}]
                answer = await client.chat.completions.create(model="parrot", messages=messages)
                return answer.choices[0].message.content

            async def piecewise(index):
                messages = [{"role": "user", "content": f"Hello {index}!"}]
                stream = await client.chat.completions.create(model="parrot", messages=messages, stream=True)
                return "".join([event.choices[0].delta.content or "" async for event in stream])

            return await asyncio.gather(*map(whole, range(10)), *map(piecewise, range(10)))

    assert set(asyncio.run(ask_all())) == {REPLY}


def test_an_answer_as_a_pydantic_model(drawer):
    answer = drawer.chat.completions.parse(
        model="parrot", messages=HELLO, response_format=Verdict, max_tokens=3000, seed=1
    )
    verdict = answer.choices[0].message.parsed
    assert isinstance(verdict, Verdict)
    assert all(isinstance(charge, Charge) for charge in verdict.charges)


def test_calls_as_pydantic_models(drawer):
    answer = drawer.chat.completions.parse(
        model="parrot",
        messages=HELLO,
        tools=[openai.pydantic_function_tool(GetWeather)],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
        seed=1,
    )
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_a_round_with_a_tool():
    call = {"name": "get_weather", "arguments": {"city": "Rome"}}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    engine = reciting("Looking it up.\n" + HERMES.written([call]))
    with listening(engine) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        with client.chat.completions.stream(model="parrot", messages=HELLO, tools=[tool]) as stream:
            kinds = [event.type for event in stream]
            message = stream.get_final_completion().choices[0].message
        assert "tool_calls.function.arguments.done" in kinds
        assert message.content == "Looking it up."
        [made] = message.tool_calls
        assert (made.function.name, json.loads(made.function.arguments)) == ("get_weather", {"city": "Rome"})
        result = {"role": "tool", "tool_call_id": made.id, "content": "rain"}
        messages = [*HELLO, message.model_dump(), result]
        again = client.chat.completions.create(model="parrot", messages=messages, tools=[tool])
        assert again.choices[0].finish_reason == "tool_calls"
    engine.shutdown()


def test_extras_go_into_extra_body(drawer):
    extras = {"regex": "(ja|nein)", "top_k": 4, "min_p": 0.01, "repetition_penalty": 1.1, "priority": 1}
    answer = drawer.chat.completions.create(model="parrot", messages=HELLO, extra_body=extras)
    assert answer.choices[0].message.content in ("ja", "nein")


def test_a_bias_decides(drawer):
    answer = drawer.completions.create(
        model="parrot", prompt="say ", max_tokens=3, logit_bias={str(ord("!")): 100}, temperature=0
    )
    assert answer.choices[0].text == "!!!"


# --------------------------------------------------------------------------------------------------- errors


def test_a_key_is_needed_where_there_are_keys():
    engine = reciting(REPLY)
    with listening(engine, api_keys=("right",)) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="wrong") as client:
            with pytest.raises(openai.AuthenticationError) as failure:
                client.chat.completions.create(model="parrot", messages=HELLO)
            assert failure.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=f"{url}/v1", api_key="right") as client:
            assert client.chat.completions.create(model="parrot", messages=HELLO).choices
    engine.shutdown()


def test_a_prompt_over_the_context(client):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as failure:
            client.chat.completions.create(
                model="parrot", messages=[{"role": "user", "content": "x" * 9000}], stream=stream
            )
        assert failure.value.code == "context_length_exceeded"


def test_a_wrong_field_is_named(client):
    with pytest.raises(openai.BadRequestError) as failure:
        client.chat.completions.create(model="parrot", messages=HELLO, temperature=-3)
    assert failure.value.param == "temperature"


def test_an_error_in_mid_stream_reaches_the_client():
    said = threading.Event()

    def fail_later(context):
        if len(context) > 24:
            assert said.wait(20)
            raise MemoryError("no more")

    engine = reciting("a long answer " * 20, on_step=fail_later)
    with (
        listening(engine) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(model="parrot", messages=HELLO, stream=True)
        assert next(stream).choices[0].delta.content is not None
        said.set()
        with pytest.raises(openai.APIError, match="no more"):
            list(stream)
        raw = httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO})
        assert (raw.status_code, raw.json()["error"]["code"]) == (500, "engine_error")
    engine.shutdown()


def test_a_client_that_goes_away_frees_its_request():
    gone = threading.Event()

    def wait_for_the_client(context):
        if len(context) > 30:
            assert gone.wait(20)
            time.sleep(0.005)  # 3,800 tokens would take 19 s

    engine = reciting("a very long answer " * 200, on_step=wait_for_the_client)

    async def until_idle():
        while (stats := await engine.stats()).running:
            await asyncio.sleep(0.01)
        return stats

    with (
        listening(engine) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(model="parrot", messages=HELLO, stream=True)
        assert next(stream).choices
        stream.close()
        gone.set()
        stats = asyncio.run(until_idle())
    assert stats.generated_tokens < 3000
    engine.shutdown()


# ---------------------------------------------------------------------------------------- a real model


@pytest.fixture(scope="module")
def bundled():
    from ramet.config import EngineConfig
    from ramet.engine.build import build_backend

    engine = build_backend(EngineConfig())
    with listening(engine) as url:
        yield url
    engine.shutdown()


@pytest.mark.model
def test_a_chat_with_the_bundled_model(bundled):
    with openai.OpenAI(base_url=f"{bundled}/v1", api_key="none") as client:
        question = [{"role": "user", "content": "What is the capital of France?"}]
        asked = {"model": "default", "messages": question, "max_tokens": 24, "temperature": 0}
        answer = client.chat.completions.create(**asked).choices[0].message.content
        assert "Paris" in answer
        stream = client.chat.completions.create(**asked, stream=True)
        assert "".join(event.choices[0].delta.content or "" for event in stream) == answer
        called = client.chat.completions.parse(
            model="default",
            messages=[{"role": "user", "content": "How will the weather be in Rome in the next 3 days?"}],
            tools=[openai.pydantic_function_tool(GetWeather)],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=60,
            temperature=0,
        )
        [call] = called.choices[0].message.tool_calls
        assert call.function.parsed_arguments.city == "Rome"


@pytest.mark.model
def test_the_example_runs_on_the_bundled_model(bundled):
    command = [sys.executable, str(EXAMPLES / "openai_client.py"), "--url", bundled]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    for text in ("Paris", "Dish(", "Multiply(a=6, b=7)", "regex:  1", "Madrid"):
        assert text in outcome.stdout


@pytest.mark.model
def test_the_documentation_runs_on_the_bundled_model(bundled, capsys):
    text = (EXAMPLES.parents[1] / "docs" / "server-openai.md").read_text()
    program = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    names = {}
    exec(compile(program.replace("http://127.0.0.1:8000", bundled), "server-openai.md", "exec"), names)
    names["client"].close()
    printed = capsys.readouterr().out
    assert "Paris" in printed and "Multiply" not in printed and "a=6 b=7" in printed and "minutes=" in printed


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_say_how_to_run_them(example):
    described = ast.get_docstring(ast.parse(example.read_text()))
    assert f"python examples/clients/{example.name} --url" in described
    assert "pip install" in described and "ramet serve" in described
