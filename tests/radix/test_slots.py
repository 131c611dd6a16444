"""Slots are handed out once, all of them, and neighbours to those who grow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet.radix import SlotAllocator
from ramet.radix.slots import RUN_SLOTS


@given(
    num_slots=st.integers(1, 3 * RUN_SLOTS),
    actions=st.lists(st.tuples(st.integers(0, 2 * RUN_SLOTS), st.integers(0, 10**6)), max_size=60),
)
def test_every_free_slot_can_be_had_and_none_is_handed_out_twice(
    num_slots: int, actions: list[tuple[int, int]]
) -> None:
    slots = SlotAllocator(num_slots)
    held: set[int] = set()
    for count, choice in actions:
        if choice % 3 and held:
            some = np.array(sorted(held)[choice % len(held) :: 1 + choice % 4], dtype=np.int32)
            slots.free(some)
            held.difference_update(some.tolist())
        after = choice % (num_slots + 1) - 1
        taken = slots.allocate(min(count, slots.num_free), after).tolist()
        assert len(taken) == len(set(taken)) and not held & set(taken)
        held.update(taken)
        assert slots.num_free == num_slots - len(held)
        assert set(slots.free_slots().tolist()) == set(range(num_slots)) - held


@given(
    num_slots=st.integers(1, 3 * RUN_SLOTS),
    held_back=st.sets(st.integers(0, 3 * RUN_SLOTS - 1)),
    choices=st.lists(st.integers(0, 10**6), min_size=1, max_size=60),
)
def test_one_slot_is_handed_out_like_several(num_slots: int, held_back: set[int], choices: list[int]) -> None:
    first, second = SlotAllocator(num_slots), SlotAllocator(num_slots)
    freed = np.array([slot for slot in range(num_slots) if slot not in held_back], dtype=np.int32)
    for slots in (first, second):
        slots.allocate(num_slots)
        slots.free(freed)
    for choice in choices[: len(freed)]:
        after = choice % (num_slots + 1) - 1
        assert [first.allocate_one(after)] == second.allocate(1, after).tolist()
        assert first.num_free == second.num_free == len(first.free_slots())


def test_a_prompt_lies_in_one_piece() -> None:
    slots = SlotAllocator(20 * RUN_SLOTS)
    slots.allocate(3)
    assert (np.diff(slots.allocate(10 * RUN_SLOTS + 5)) == 1).all()


def test_contexts_that_grow_in_turn_stay_in_pieces() -> None:
    slots = SlotAllocator(100 * RUN_SLOTS)
    contexts = [slots.allocate(10).tolist() for _ in range(8)]
    for _ in range(5 * RUN_SLOTS):
        for context in contexts:
            context += slots.allocate(1, after=context[-1]).tolist()
    for context in contexts:
        pieces = 1 + int((np.diff(context) != 1).sum())
        assert pieces <= -(-len(context) // RUN_SLOTS)


def test_what_grows_takes_any_slot_when_the_room_behind_it_is_gone() -> None:
    slots = SlotAllocator(2 * RUN_SLOTS)
    first, second = slots.allocate(2), slots.allocate(2)
    rest = slots.allocate(slots.num_free - 1)  # takes the room behind both
    assert slots.num_free == 1
    (last,) = slots.allocate(1, after=int(first[-1])).tolist()
    assert last not in {*first.tolist(), *second.tolist(), *rest.tolist()}


def test_a_slot_cannot_be_given_back_twice() -> None:
    slots = SlotAllocator(RUN_SLOTS)
    taken = slots.allocate(3)
    slots.free(taken)
    with pytest.raises(AssertionError, match="twice"):
        slots.free(taken)
