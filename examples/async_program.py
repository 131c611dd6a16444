"""Programs on an event loop: `async def` programs, `arun`, and reading with `await`.

    python examples/async_program.py

In asynchronous code nothing may block, so values are awaited: `await s.aget("name")`. That makes it easy
to do something else in the meantime, such as running several programs and taking each result as it comes.
"""

import asyncio

import ramet as rm


@rm.function
async def opposite(s, word):
    s += f"hot: cold\nbig: small\nold: young\n{word}:"
    s += rm.gen("word", max_tokens=4, stop="\n")
    answer = (await s.aget("word")).strip()  # the program itself goes on with it
    return f"the opposite of {word} is {answer}"


async def run_all(engine):
    words = ["day", "happy", "up", "fast"]
    runs = [opposite.arun(word, backend=engine, temperature=0) for word in words]
    for finished in asyncio.as_completed(runs):
        print((await finished).ret_value)

    completion = await engine.agenerate("The sun rises in the", max_tokens=4, temperature=0)
    print("and the sun rises in the" + completion.text)


def main():
    with rm.Engine() as engine:
        asyncio.run(run_all(engine))


if __name__ == "__main__":
    main()
