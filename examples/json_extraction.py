"""Extract a typed record: the model can write nothing but a value of the type.

    python examples/json_extraction.py

The type becomes an automaton that says which tokens may come next. What it leaves no
choice about (keys, quotes, brackets) is not sampled at all: whole stretches are appended in one step.
`s["record"]` is the text, `s.value("record")` an instance of the type.
"""

from dataclasses import dataclass
from typing import Literal

import ramet as rm


@dataclass
class Review:
    name_of_the_dish: str
    would_order_again: bool
    number_of_stars: Literal[1, 2, 3, 4, 5]


@rm.function
def extract(s, text):
    with s.user():
        s += "Extract the facts as JSON.\n\n" + text
    with s.assistant():
        s += rm.gen("record", json_schema=Review, max_tokens=100, temperature=0)


def main():
    texts = [
        "The mushroom soup was the best I ever had. Five stars, I will be back for it!",
        "I had the fish tacos. Cold and greasy. Never again, one star.",
    ]
    with rm.Engine() as engine:
        for state in extract.run_batch([{"text": text} for text in texts], backend=engine):
            print(state.value("record"))
        stats = engine.stats()
        total = stats.generated_tokens + stats.jump_forward_tokens
        print(f"{stats.jump_forward_tokens} of {total} tokens were forced, not sampled")


if __name__ == "__main__":
    main()
