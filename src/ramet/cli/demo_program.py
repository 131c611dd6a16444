"""The program that `ramet demo` runs, and the text its prompts begin with."""

from __future__ import annotations

from collections.abc import Sequence

import ramet as rm

HOMES = [" forest", " desert", " ocean"]
ANIMALS = ("owl", "penguin", "scorpion", "bee")
LAST_PAGE = "All the animals wake up, and"

BOOK = """\
A picture book for children, to be read at bedtime. Each page shows one animal, says where it lives, \
and tells what it dreams of when the night comes and the stars are out.

Animal: otter
Home: river
Dream: The otter dreams that it slides down a waterfall of warm milk, and at the bottom all its \
friends are waiting with a towel.

Animal: fox
Home: forest
Dream: The fox dreams of a train that stops between the trees. The driver is a rabbit, and every \
ticket costs one pine cone.

Animal: camel
Home: desert
Dream: The camel dreams of rain. It opens a big red umbrella, turns it upside down, and sails away \
in it over the dunes.

Animal: octopus
Home: ocean
Dream: The octopus dreams that it plays eight pianos at once, and the whales come from far away to \
dance to its music.

"""


@rm.function
def bedtime_book(s: rm.ProgramState, animals: Sequence[str]) -> None:
    s += BOOK
    pages = s.fork(len(animals))  # the new pages are written at the same time
    for page, animal in zip(pages, animals, strict=True):
        page += f"Animal: {animal}\nHome:" + rm.select("home", HOMES)
        page += f"\nDream: The {animal} dreams"
        page += rm.gen("dream", max_tokens=40, stop="\n") + "\n\n"
    s["pages"] = pages  # for whoever watches
    pages.join("concate_and_append")
    s += f"The last page: {LAST_PAGE}"
    s += rm.gen("ending", max_tokens=48, stop="\n")
