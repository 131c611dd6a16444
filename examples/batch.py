"""Many runs of one program: `run_batch`.

    python examples/batch.py

The runs go on at the same time and share what their prompts have in common: the examples at the beginning are
computed once. One that fails does not stop the others; its error is raised when its value is read.
"""

import ramet as rm

EXAMPLES = """\
Country: France
Capital: Paris

Country: Japan
Capital: Tokyo

Country: Egypt
Capital: Cairo

"""


@rm.function
def capital(s, country):
    if not country:
        raise ValueError("which country?")
    s += EXAMPLES + f"Country: {country}\nCapital:" + rm.gen("city", max_tokens=8, stop="\n")


def main():
    countries = ["Italy", "Spain", "", "Greece", "Germany", "England"]
    with rm.Engine() as engine:
        states = capital.run_batch(
            [{"country": country} for country in countries], backend=engine, temperature=0
        )
        for country, state in zip(countries, states, strict=True):
            try:
                print(f"{country}: {state['city'].strip()}")
            except rm.ProgramError as error:
                print(f"failed: {error}")
        stats = engine.stats()
        print(f"{stats.prompt_tokens} prompt tokens asked for, {stats.computed_tokens} computed")


if __name__ == "__main__":
    main()
