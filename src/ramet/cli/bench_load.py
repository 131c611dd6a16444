"""What a benchmark asks: prompts that nobody has seen before, and when each is sent. Knows no HTTP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from ramet.checks import check_int
from ramet.config import option
from ramet.errors import InvalidRequest

# Short words that follow each other with a space: nearly always one token each.
_SENTENCE = """
about above across after again against air all along also always among animal another answer any are around
ask away back base be because become before began being below best better between big bird black blue boat
body book both box boy bring brought build built but by call came can car care carry change check child city
class clear close cold color come complete could country course cover cross cut dark day deep did different
direct do does dog done door down draw dry each early earth ease east eat end enough even ever every example
eye face fact fall family far farm fast father feel feet few field figure fill final find fire first fish
five fly follow food foot force form found four free friend from front full game gave get girl give go gold
good got great green ground group grow had half hand hard has have head hear heard heat help her here high
him his hold home horse hot hour house how hundred idea if in island it just keep kind king knew know land
language large last late laugh lay lead learn leave left less let letter life light like line list listen
little live long look lot love low machine made main make man many map mark may mean measure men might mile
mind minute miss money moon more morning most mother mountain move much music must name near need never new
next night north notice noun now number object of off often oh old on once one only open or order other our
out over own page paper part pass pattern people perhaps person picture piece place plain plan plane plant
play point port pose possible pound power press problem produce product pull put question quick rain ran
reach read ready real red remember rest right river road rock room round rule run said same saw say school
science sea second see seem self sentence serve set several shape she ship short should show side simple
since sing sit six size sleep slow small snow so some song soon sound south special spell stand star start
state stay step still stood stop story street strong study such sun sure surface table take talk teach tell
ten test than that the their them then there these they thing think this those though thought thousand three
through time to together told too took top toward town travel tree true try turn two under unit until up us
use usual very voice vowel wait walk want war warm was watch water way we week weight well went were west
what wheel when where which white who whole why will wind with wonder wood word work world would write year
yes yet you young your
"""
_WORDS = _SENTENCE.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The requests.

    Raises:
        InvalidRequest: a value is out of range.
    """

    requests: int = option(200, "Requests in all.", flag="--requests")
    seconds: float | None = option(None, "Send none after so many seconds.")
    concurrency: int = option(32, "Most requests in flight at once.")
    request_rate: float | None = option(None, "Requests per second, at random moments. Default: no waiting.")
    prompt_tokens: int = option(128, "Length of a prompt, nearly: it is text of short words.")
    output_tokens: int = option(64, "Length of an answer, exactly where the server can ignore EOS.")
    shared_prefix_tokens: int = option(0, "How much of a prompt it has in common with its group.")
    prefix_groups: int = option(1, "Groups of prompts with such a prefix.")
    temperature: float = option(0.0, "0 is greedy.")
    verify: int = option(0, "Requests asked again afterwards, one by one: the texts must be the same.")
    seed: int | None = option(None, "Same seed, same prompts. Default: new ones in every run.")

    def __post_init__(self) -> None:
        for name in ("requests", "concurrency", "prompt_tokens", "output_tokens", "prefix_groups"):
            check_int(name, getattr(self, name), 1)
        check_int("shared_prefix_tokens", self.shared_prefix_tokens, 0, self.prompt_tokens)
        check_int("verify", self.verify, 0)
        if self.verify and self.temperature > 0:
            raise InvalidRequest("verify needs temperature 0: texts are only the same if nothing is drawn")
        for name in ("seconds", "request_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InvalidRequest(f"{name} must be greater than 0, got {value}")

    def prompts(self) -> Iterator[str]:
        """All prompts in order; group by group in turn."""
        generator = random.Random(self.seed)
        prefixes = [_text(generator, self.shared_prefix_tokens) for _ in range(self.prefix_groups)]
        for index in range(self.requests):
            rest = _text(generator, self.prompt_tokens - self.shared_prefix_tokens)
            yield f"{prefixes[index % self.prefix_groups]} {rest}".strip()

    def moments(self) -> Iterator[float]:
        """When each request may be sent, in seconds from the start."""
        generator = random.Random(self.seed)
        moment = 0.0
        for _ in range(self.requests):
            yield moment
            if self.request_rate is not None:
                moment += generator.expovariate(self.request_rate)


def _text(generator: random.Random, num_words: int) -> str:
    return " ".join(generator.choices(_WORDS, k=num_words))
