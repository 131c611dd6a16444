"""Random patterns of the regex dialect, each with a strategy for texts that it matches."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hypothesis import strategies as st

from ramet.grammar.automaton import Dfa

LETTERS = "abAB01_ -.\n\té߀ßſkKKiİıσςΣ文😀"  # noqa: RUF001
"""Word characters and others, of 1 to 4 bytes, some with more than one case variant."""
MAX_TEXT = 16
"""Python's matcher may try exponentially many ways."""
SETS = {
    ".": "ab_ 文",
    r"\d": "017٣",
    r"\D": "a_é",
    r"\w": "aB0_é文",
    r"\W": " -.\n",
    r"\s": " \n\t\u2003",
    r"\S": "a1.😀",
}


@dataclass(frozen=True)
class Sample:
    """A pattern and texts it matches; ``[]``-safe members for classes have neither ``-`` nor ranges."""

    pattern: str
    texts: st.SearchStrategy[str]


def _literal(character: str) -> Sample:
    return Sample(re.escape(character), st.just(character))


@st.composite
def _classes(draw: st.DrawFn) -> Sample:
    members = draw(st.lists(st.sampled_from(sorted(LETTERS)), min_size=1, max_size=3))
    ranges = draw(st.lists(st.tuples(st.sampled_from("aA0é\u0391一"), st.integers(0, 40)), max_size=2))
    escapes = draw(st.lists(st.sampled_from([r"\d", r"\w", r"\s", r"\W", r"\S"]), max_size=1))
    inside = "".join(re.escape(member) for member in members) + "".join(escapes)
    inside += "".join(f"{low}-{re.escape(chr(ord(low) + more))}" for low, more in ranges)
    if draw(st.booleans()):
        return Sample(f"[^{inside}]", st.sampled_from(LETTERS + "xyzΩ"))  # most of them match
    found = [*members, *(chr(ord(low) + more) for low, more in ranges)]
    return Sample(f"[{inside}]", st.sampled_from(found))


_atoms = st.one_of(
    st.sampled_from(LETTERS).map(_literal),
    st.sampled_from(sorted(SETS)).map(lambda name: Sample(name, st.sampled_from(SETS[name]))),
    _classes(),
)


def _repeated(sample: Sample, low: int, more: int | None, lazy: str) -> Sample:
    high = "" if more is None else low + more
    sign = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, more), f"{{{low},{high}}}")
    most = low + (2 if more is None else more)
    texts = st.lists(sample.texts, min_size=low, max_size=most).map("".join)
    return Sample(f"(?:{sample.pattern}){sign}{lazy}", texts)


def _extend(inner: st.SearchStrategy[Sample]) -> st.SearchStrategy[Sample]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        several.map(
            lambda parts: Sample(
                "".join(f"(?:{part.pattern})" for part in parts),
                st.tuples(*(part.texts for part in parts)).map("".join),
            )
        ),
        several.map(
            lambda options: Sample(
                "(" + "|".join(option.pattern for option in options) + ")",
                st.one_of(*(option.texts for option in options)),
            )
        ),
        st.builds(
            _repeated,
            inner,
            st.integers(0, 2),
            st.one_of(st.none(), st.integers(0, 2)),
            st.sampled_from(["", "?"]),
        ),
        st.builds(
            lambda sample, flag: Sample(f"(?{flag}:{sample.pattern})", sample.texts),
            inner,
            st.sampled_from(["i", "s", "-i", "is", "-s"]),
        ),
    )


samples = st.recursive(_atoms, _extend, max_leaves=8)


@st.composite
def patterns_and_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A pattern, and texts: ones it matches, those with one change, and others."""
    sample = draw(samples)
    flags = draw(st.sampled_from(["", "", "(?i)", "(?s)", "(?is)"]))
    pattern = draw(st.sampled_from([f"{flags}%s", f"{flags}^%s$", rf"{flags}\A%s\Z"])) % sample.pattern
    texts = [""]
    for _ in range(4):
        text = draw(sample.texts)
        swapped = text.swapcase() if draw(st.booleans()) else text
        place = draw(st.integers(0, len(text)))
        changed = text[:place] + draw(st.sampled_from(LETTERS)) + text[place + draw(st.integers(0, 1)) :]
        texts += [text, swapped, changed]
    texts += draw(st.lists(st.text(LETTERS, max_size=6), max_size=4))
    return pattern, [text for text in texts if len(text) <= MAX_TEXT]


def walk(dfa: Dfa, data: bytes, state: int = 0) -> int:
    """The state after some bytes, by the definition."""
    for byte in data:
        if state < 0:
            break
        state = int(dfa.transitions[state, dfa.byte_classes[byte]])
    return state


def accepts(dfa: Dfa, data: bytes) -> bool:
    state = walk(dfa, data)
    return state >= 0 and bool(dfa.accepting[state])
