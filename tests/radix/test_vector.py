"""A vector behaves like a list, whatever room its buffer has."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ramet.radix.vector import Int32Vector

values = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8)


@given(
    begin=values,
    actions=st.lists(
        st.tuples(st.sampled_from(["append", "set_last", "prepend", "split"]), values), max_size=30
    ),
)
def test_a_vector_is_like_a_list(begin: list[int], actions: list[tuple[str, list[int]]]) -> None:
    vector, expected = Int32Vector(np.array(begin, dtype=np.int32)), list(begin)
    for action, some in actions:
        if action == "append":
            for value in some:
                vector.append(value)
            expected += some
        elif action == "set_last" and some and expected:
            vector.set_last(some[0])
            expected[-1] = some[0]
        elif action == "prepend":
            vector.prepend(np.array(some, dtype=np.int32))
            expected = some + expected
        elif action == "split" and 0 < len(some) < len(expected):
            head = vector.split(len(some))
            assert head.view.tolist() == expected[: len(some)]
            head.append(7)  # does not reach into the rest
            expected = expected[len(some) :]
        assert vector.view.tolist() == expected


def test_what_a_vector_was_made_of_is_not_changed() -> None:
    origin = np.array([1, 2, 3], dtype=np.int32)
    vector = Int32Vector(origin)
    vector.set_last(9)
    assert origin.tolist() == [1, 2, 3]
