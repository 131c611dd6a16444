"""DSPy against a Ramet server: typed predictions, a chain of thought, a program of two steps.

    ramet serve                                   # in another terminal
    pip install dspy
    python examples/clients/dspy_client.py --url http://127.0.0.1:8000

A model as small as the bundled one does not keep to DSPy's formats by itself. `JSONAdapter` asks for them as
JSON schemas, which the server enforces, if DSPy believes that it does: it knows only the big providers.
"""

from __future__ import annotations

import argparse
from typing import Literal

import dspy


class SchemaLM(dspy.LM):
    """A model behind a server that enforces JSON schemas."""

    @property
    def supports_response_schema(self) -> bool:
        return True

    @property
    def supported_params(self) -> set[str]:
        return super().supported_params | {"response_format"}


class Classify(dspy.Signature):
    """Say how a sentence feels."""

    sentence: str = dspy.InputField()
    mood: Literal["happy", "sad", "angry"] = dspy.OutputField()


class Report(dspy.Module):
    """Finds the topic of a text, and then a title for it."""

    def __init__(self) -> None:
        super().__init__()
        self.name = dspy.Predict("text -> topic: Literal['animals', 'weather', 'music']")
        self.tell = dspy.Predict("text, topic -> title: str")

    def forward(self, text: str) -> dspy.Prediction:
        topic = self.name(text=text).topic
        return dspy.Prediction(topic=topic, title=self.tell(text=text, topic=topic).title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()
    model = SchemaLM(
        "openai/default",
        api_base=f"{options.url}/v1",
        api_key=options.api_key,
        temperature=0,
        frequency_penalty=0.5,
        max_tokens=200,
        cache=False,
    )
    with dspy.context(lm=model, adapter=dspy.JSONAdapter()):
        print("mood:", dspy.Predict(Classify)(sentence="I won the race!").mood)
        thought = dspy.ChainOfThought("question -> answer: str")(question="What is the capital of France?")
        print("thought:", thought.reasoning)
        print("answer:", thought.answer)
        report = Report()(text="The owl sleeps by day and hunts by night.")
        print("topic:", report.topic)
        print("title:", report.title)


if __name__ == "__main__":
    main()
