"""Streaming: read a program's text while it is being written.

    python examples/streaming.py

With `stream=True`, `run` returns at once and the program goes on in the background. `text_iter()` yields
all text, the constant parts too; `text_iter("name")` that of one variable. For a single prompt, without a
program, there is `engine.stream`.
"""

import ramet as rm


@rm.function
def story(s, hero):
    s += f"Once upon a time there was {hero} who"
    s += rm.gen("beginning", max_tokens=32, stop=".") + ".\nIn the end,"
    s += rm.gen("end", max_tokens=32, stop=".") + ".\n"


def main():
    with rm.Engine() as engine:
        state = story.run(
            "a small dragon", backend=engine, stream=True, temperature=0, repetition_penalty=1.1
        )
        for text in state.text_iter():
            print(text, end="", flush=True)

        for chunk in engine.stream("The three primary colours are", max_tokens=12, temperature=0):
            print(chunk.text, end="|", flush=True)
            if chunk.completion is not None:
                print(f"\nfinished because of {chunk.completion.finish_reason}")


if __name__ == "__main__":
    main()
