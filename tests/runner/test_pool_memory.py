"""A pool is backed by memory while nothing else is to be done."""

from __future__ import annotations

import threading

from ramet.runner.pool_memory import MOST_PIECES, PoolMemory


class Pool:
    """A pool of so many pieces that notes which were populated."""

    def __init__(self, num_pieces: int) -> None:
        self.num_pieces = num_pieces
        self.populated: list[int] = []
        self.ended = threading.Event()

    def populate(self, piece: int) -> bool:
        self.populated.append(piece)
        if piece == self.num_pieces or piece == MOST_PIECES - 1:
            self.ended.set()
        return piece < self.num_pieces


def test_an_idle_engine_populates_its_pool_in_order():
    pool = Pool(5)
    PoolMemory(pool.populate)
    assert pool.ended.wait(20)
    assert pool.populated == [0, 1, 2, 3, 4, 5]


def test_a_large_pool_is_populated_in_part():
    pool = Pool(10 * MOST_PIECES)
    PoolMemory(pool.populate)
    assert pool.ended.wait(20)
    assert pool.populated == list(range(MOST_PIECES))


def test_nothing_is_populated_during_steps_and_after_the_end():
    pool = Pool(5)
    memory = PoolMemory(pool.populate)
    with memory:
        assert not pool.ended.wait(0.3)
        assert pool.populated == []
        memory.close()
    assert not pool.ended.wait(0.3)
    assert pool.populated == []


def test_closing_waits_for_the_piece_under_way():
    begun, go_on = threading.Event(), threading.Event()
    finished = []

    def populate(piece):
        begun.set()
        go_on.wait(20)
        finished.append(piece)
        return False

    memory = PoolMemory(populate)
    assert begun.wait(20)
    closing = threading.Thread(target=memory.close)
    closing.start()
    assert closing.is_alive() and not finished
    go_on.set()
    closing.join()
    assert finished == [0]
