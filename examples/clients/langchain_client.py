"""LangChain's ChatOpenAI against a Ramet server: invoke, stream, batch, structured output, tools.

ramet serve                                   # in another terminal
pip install langchain-openai
python examples/clients/langchain_client.py --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Mood(BaseModel):
    """How a text feels."""

    mood: Literal["happy", "sad", "angry"]
    certain: bool


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()
    model = ChatOpenAI(
        base_url=f"{options.url}/v1", api_key=options.api_key, model="default", temperature=0, max_tokens=48
    )

    print("invoke:", model.invoke("What is the capital of France?").content)

    print("stream: ", end="")
    for chunk in model.stream("Name three colors."):
        print(chunk.content, end="", flush=True)
    print()

    chain = ChatPromptTemplate.from_template("Tell me a fact about {animal}.") | model | StrOutputParser()
    for fact in chain.batch([{"animal": "cats"}, {"animal": "owls"}]):
        print("batch:", fact)

    print("structured:", repr(model.with_structured_output(Mood).invoke("I won the race!")))
    by_call = model.with_structured_output(Mood, method="function_calling")
    print("structured, by a call:", repr(by_call.invoke("My bike was stolen.")))
    as_json = model.with_structured_output(None, method="json_mode")
    print("JSON:", as_json.invoke("Answer in JSON, with the key 'answer': is the sky blue?"))

    question = HumanMessage("What is 6 times 7?")
    asked = model.bind_tools([multiply], tool_choice="required", parallel_tool_calls=False).invoke([question])
    [call] = asked.tool_calls
    print("tool:", call["name"], call["args"])
    result = ToolMessage(str(multiply.invoke(call["args"])), tool_call_id=call["id"])
    print("  then:", model.bind_tools([multiply]).invoke([question, asked, result]).content)


if __name__ == "__main__":
    main()
