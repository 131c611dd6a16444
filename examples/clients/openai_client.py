"""The official OpenAI client against a Ramet server: chats, streams, pydantic models, tools, completions.

ramet serve                                   # in another terminal
pip install openai
python examples/clients/openai_client.py --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Literal

import openai
from pydantic import BaseModel, Field


class Dish(BaseModel):
    name: str = Field(max_length=30)
    kind: Literal["starter", "main course", "dessert"]
    minutes: int = Field(ge=1, le=600)


class Multiply(BaseModel):
    """Multiply two whole numbers."""

    a: int = Field(ge=0, le=999)
    b: int = Field(ge=0, le=999)


def chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
        max_tokens=32,
        temperature=0,
    )
    usage = answer.usage
    print("chat:", answer.choices[0].message.content)
    print(f"  {usage.prompt_tokens} tokens in ({usage.prompt_tokens_details.cached_tokens} cached)")


def stream(client: openai.OpenAI, model: str) -> None:
    print("stream: ", end="")
    events = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Name three colors."}],
        max_tokens=32,
        stream=True,
    )
    for event in events:
        print(event.choices[0].delta.content or "", end="", flush=True)
    print()


def pydantic_model(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "Describe apple pie."}],
        response_format=Dish,
        max_tokens=64,
    )
    print("pydantic:", repr(answer.choices[0].message.parsed))


def tools(client: openai.OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": "What is 6 times 7?"}]
    offered = [openai.pydantic_function_tool(Multiply)]
    asked = client.chat.completions.parse(
        model=model,
        messages=messages,
        tools=offered,
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=64,
        temperature=0,
    )
    message = asked.choices[0].message
    [call] = message.tool_calls
    factors = call.function.parsed_arguments
    print("tool:", repr(factors))
    result = {"role": "tool", "tool_call_id": call.id, "content": str(factors.a * factors.b)}
    answer = client.chat.completions.create(
        model=model,
        messages=[*messages, message.model_dump(exclude={"parsed"}), result],
        tools=offered,
        tool_choice="auto",
        max_tokens=32,
        temperature=0,
    )
    print("  then:", answer.choices[0].message.content)


def extras(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(
        model=model,
        prompt="The year the Second World War ended:",
        extra_body={"regex": " 1[0-9]{3}", "top_k": 5},
    )
    print("regex:", answer.choices[0].text)


async def many(url: str, key: str, model: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client:

        async def ask(country: str) -> str:
            answer = await client.completions.create(
                model=model, prompt=f"The capital of {country} is", max_tokens=4, temperature=0
            )
            return answer.choices[0].text.strip()

        print("at once:", await asyncio.gather(*map(ask, ["Italy", "Spain", "Japan", "Egypt"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()
    with openai.OpenAI(base_url=f"{options.url}/v1", api_key=options.api_key) as client:
        model = client.models.list().data[0].id
        for part in (chat, stream, pydantic_model, tools, extras):
            part(client, model)
    asyncio.run(many(options.url, options.api_key, model))


if __name__ == "__main__":
    main()
