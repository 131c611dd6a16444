"""A program with a fork in it: write a list of tips, expand both at the same time, then sum up.

    python examples/tip_suggestion.py

Shows `@rm.function`, `gen` with a stop, `fork`, reading the branches' variables, and `select`.
"""

import ramet as rm


@rm.function
def tip_suggestion(s, topic):
    s += f"Two tips for {topic}:\n1."
    s += rm.gen("first", max_tokens=32, stop="\n") + "\n2."
    s += rm.gen("second", max_tokens=32, stop="\n") + "\n"

    forks = s.fork(2)  # two branches of one prompt, written at the same time
    for number, fork in enumerate(forks, start=1):
        fork += f"\nTip {number} helps because"
        fork += rm.gen("reason", max_tokens=40, stop="\n")

    for number, fork in enumerate(forks, start=1):
        s += f"\nTip {number} helps because" + fork["reason"]  # waits for this branch
    s += "\nThe tone of this text is" + rm.select("tone", choices=[" formal", " friendly"])


def main():
    with rm.Engine() as engine:
        state = tip_suggestion.run(
            topic="staying healthy", backend=engine, temperature=0, repetition_penalty=1.1
        )
        print(state.text())


if __name__ == "__main__":
    main()
