"""Timers fire in order of their due time, in bounded batches, and take little memory."""

import tracemalloc
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_store.wheel import Wheel

TIMERS = st.lists(st.tuples(st.integers(0, 30), st.integers(-(1 << 63), (1 << 63) - 1)), max_size=80)


def dues(wheel: Wheel) -> Iterator[int]:
    """The milliseconds that have timers."""
    due_ms = wheel.due_after(-1)
    while due_ms is not None:
        yield due_ms
        due_ms = wheel.due_after(due_ms)


@given(TIMERS, st.lists(st.tuples(st.integers(0, 35), st.integers(0, 20)), max_size=20))
def test_timers_fire_in_order_of_due_time_and_then_of_setting(
    timers: list[tuple[int, int]], pops: list[tuple[int, int]]
) -> None:
    """None early, none twice, never more than asked for."""
    wheel = Wheel()
    for due_ms, key in timers:
        wheel.add(due_ms, key)
    waiting = sorted(timers, key=lambda timer: timer[0])
    for now_ms, limit in pops:
        due = [key for due_ms, key in waiting if due_ms <= now_ms][:limit]
        assert list(wheel.pop_due(now_ms, limit)) == due
        del waiting[: len(due)]
        assert len(wheel) == len(waiting)
        assert wheel.next_due_ms() == (waiting[0][0] if waiting else None)


def test_a_timer_set_while_others_fire_fires_in_the_same_run_if_it_is_due() -> None:
    """Its owner may set the next one from within."""
    wheel = Wheel()
    wheel.add(1, 10)
    fired = []
    for key in wheel.pop_due(5, 100):
        fired.append(key)
        if key < 13:
            wheel.add(key - 8, key + 1)
    assert fired == [10, 11, 12, 13]


def _traced(count: int, slots: int) -> int:
    wheel = Wheel()
    tracemalloc.start()
    try:
        for n in range(count):
            wheel.add(1_700_000_000_000 + n * 7919 % slots, n)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("slots", [1, 1_800, 20_000])
def test_a_timer_takes_about_25_bytes_however_many_share_its_millisecond(slots: int) -> None:
    """In any order; due time and key included."""
    assert _traced(20_000, slots) < 20_000 * 30


def test_a_wheel_that_lost_most_of_its_timers_gives_their_memory_back() -> None:
    """Or who sends and recalls would fill memory with less than the timers that may wait."""
    wheel = Wheel()
    tracemalloc.start()
    try:
        for n in range(20_000):
            wheel.add(n, n)
        for n in range(20_000):
            if n % 50:
                assert wheel.remove(n, n)
        assert tracemalloc.get_traced_memory()[0] < 400 * 16 * 6
    finally:
        tracemalloc.stop()
    assert wheel.earliest(1000) == [(n, n) for n in range(0, 20_000, 50)]


@given(TIMERS, st.lists(st.tuples(st.integers(0, 80), st.booleans()), max_size=60), st.integers(0, 20))
def test_a_wheel_without_what_was_removed(
    timers: list[tuple[int, int]], picks: list[tuple[int, bool]], limit: int
) -> None:
    """Whichever is taken out, the others fire as if it had never been there; the earliest can be looked at."""
    wheel = Wheel()
    waiting = []
    for due_ms, key in dict.fromkeys(timers):
        wheel.add(due_ms, key)
        waiting.append((due_ms, key))
    waiting.sort(key=lambda timer: timer[0])
    for pick, again in picks:
        if waiting:
            gone = waiting.pop(pick % len(waiting))
            assert wheel.has(*gone)
            assert wheel.remove(*gone)
            assert not wheel.has(*gone)
            assert not wheel.remove(*gone)
            if again:
                wheel.add(*gone)
                waiting.append(gone)
                waiting.sort(key=lambda timer: timer[0])
        assert wheel.earliest(limit) == waiting[:limit]
        assert list(dues(wheel)) == sorted({due_ms for due_ms, _ in waiting})
        due_ms, keys = wheel.head(35, limit)
        assert list(keys) == [key for due, key in waiting if due == due_ms][:limit]
    assert len(wheel) == len(waiting)
    assert list(wheel.pop_due(35, 1000)) == [key for _, key in waiting]


def test_many_timers_of_one_millisecond_are_taken_from_the_front() -> None:
    """In order, removed one by one or popped, with one out of their middle missing."""
    wheel = Wheel()
    for n in range(1_000):
        wheel.add(5, n)
    assert wheel.remove(5, 900)
    for n in range(400):
        assert wheel.head(5, 2) == (5, array("q", (n, n + 1)))
        assert wheel.remove(5, n)
    assert list(wheel.pop_due(5, 200)) == list(range(400, 600))
    assert list(wheel.keys_at(5))[:3] == [600, 601, 602]
    assert list(wheel.pop_due(9, 1_000)) == [n for n in range(600, 1_000) if n != 900]
    wheel.add(7, 1)
    wheel.clear()
    assert (len(wheel), wheel.next_due_ms(), wheel.has(7, 1)) == (0, None, False)
