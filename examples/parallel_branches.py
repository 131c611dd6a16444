"""Fork and join: several branches of one prompt, written at the same time, and put together again.

    python examples/parallel_branches.py

A branch costs only its own tokens: the prompt before the fork is computed once for all of them. `join` brings
the branches' variables back as lists, in the order of the forks. (`join("concate_and_append")` would append
their text instead.)
"""

import ramet as rm

SHOP = (
    "The little bakery at the market square opens at six in the morning. It sells rye bread, butter cakes "
    "and apple pies, and behind the counter stands old Marta, who knows every customer by name.\n"
)


@rm.function
def describe(s, senses):
    s += SHOP
    with s.fork(len(senses)) as forks:  # joined at the end of the block
        for fork, sense in zip(forks, senses, strict=True):
            fork += f"What you can {sense} in the bakery:"
            fork += rm.gen("impression", max_tokens=32, stop="\n")
    s += "In one word, the bakery is" + rm.gen("word", max_tokens=4, stop=[".", ",", "\n"])


def main():
    senses = ["see", "hear", "smell", "taste"]
    with rm.Engine() as engine:
        state = describe.run(senses, backend=engine, temperature=0, repetition_penalty=1.1)
        for sense, impression in zip(senses, state["impression"], strict=True):
            print(f"{sense:>6}: {impression.strip()}")
        print(f"In one word: {state['word'].strip()}")

        stats = engine.stats()
        print(f"{stats.prompt_tokens} prompt tokens asked for, {stats.computed_tokens} computed")


if __name__ == "__main__":
    main()
