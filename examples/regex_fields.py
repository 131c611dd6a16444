"""Fill in the fields of a form, each with a regex that says what it may look like.

    python examples/regex_fields.py

The model can draw no token that leaves the pattern, and what the pattern leaves no choice about (the dashes
of a date, the protocol of an address) is appended without asking it.
"""

import ramet as rm

FIELDS = {
    "Founded on": r"(18|19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
    "Website": r"https://www\.[a-z]{2,20}\.(com|org|net)/",
    "Phone": r"\+[1-9][0-9]{0,2} [0-9]{3} [0-9]{4}",
    "Motto": r"[A-Z][a-z]+( [a-z]+){2,7}\.",
}


@rm.function
def fill_in(s, company):
    s += f"Company: {company}\n"
    for field, pattern in FIELDS.items():
        s += f"{field}: " + rm.gen(field, regex=pattern, max_tokens=48, temperature=0) + "\n"


def main():
    with rm.Engine() as engine:
        print(fill_in.run("a small bakery that delivers by bicycle", backend=engine).text())


if __name__ == "__main__":
    main()
