"""Timers: a table that is small, and equal live, in a replay and in a checkpoint."""

import tracemalloc
from pathlib import Path

import pytest

from rmq_store.journal import TimerEnded, TopicDrop
from rmq_store.timers import TOPIC, Timers, due_of, out_ms
from tests.store.support import Rig, view

DUE_MS = 1_800_000_000_000


def test_a_timer_goes_by_its_first_number() -> None:
    """Wherever it was carried; fired or ended under that name it is gone."""
    timers = Timers()
    timers.put(3, DUE_MS, 3)
    timers.put(7, DUE_MS, 3)
    timers.put(9, DUE_MS, 3)
    assert (len(timers), timers.current(3), timers.waits(3, DUE_MS)) == (1, 9, True)
    assert [timers.waits(number, DUE_MS) for number in (3, 7, 9)] == [True, False, False]
    timers.fired(3, DUE_MS)
    assert (len(timers), timers.waits(3, DUE_MS), timers.fired_ms) == (0, False, DUE_MS)
    timers.ended(3, DUE_MS)
    assert timers.next_due_ms() is None


def test_timers_of_a_millisecond_fire_in_the_order_of_sending_whatever_was_carried(tmp_path: Path) -> None:
    """Live, from a checkpoint, and in a replay that finds a carried one behind those that came later."""
    live, replayed = Timers(), Timers()
    for number in range(4):
        live.put(number, DUE_MS, number)
    for number, first in ((4, 0), (5, 2)):
        live.put(number, DUE_MS, first)
    for number, first in ((1, 1), (3, 3), (4, 0), (5, 2), (6, 6)):
        replayed.put(number, DUE_MS, first)
    assert list(live.head(DUE_MS, 3)[1]) == list(replayed.head(DUE_MS, 3)[1]) == [0, 1, 2]
    replayed.put(7, DUE_MS, 0)
    assert replayed.earliest(9) == [(DUE_MS, first) for first in (0, 1, 2, 3, 6)]
    rig = Rig(tmp_path)
    for _ in range(3):
        rig.delay(DUE_MS)
    rig.retain()
    rig.delay(DUE_MS)
    rig.save()
    expected = rig.store.state.timers.earliest(9)
    rig.crash()
    again = Rig(tmp_path)
    assert again.store.state.timers.earliest(9) == expected == [(DUE_MS, first) for first in range(4)]
    again.close()


@pytest.mark.parametrize(
    ("text", "due_ms"), [("5", 5), ("", 0), ("-5", 0), ("soon", 0), ("9" * 15, int("9" * 15)), ("9" * 16, 0)]
)
def test_what_a_property_says_of_the_due_time(text: str, due_ms: int) -> None:
    """0 where it is no time."""
    assert due_of({"TIMER_DELIVER_MS": text}) == due_ms


@pytest.mark.parametrize(("due_ms", "slot_ms"), [(5001, 5000), (5000, 4000), (5999, 5000), (1, 0)])
def test_apache_s_slot_is_the_second_before(due_ms: int, slot_ms: int) -> None:
    """A whole second belongs to the one before (facts: store.md 4.2)."""
    assert out_ms(due_ms) == slot_ms


def test_a_checkpoint_of_everything_keeps_the_timers(tmp_path: Path) -> None:
    """They are told as changes only, also where a dropped topic makes all else be written anew."""
    rig = Rig(tmp_path)
    rig.send("gone")
    for n in range(3):
        rig.delay(DUE_MS + n)
    rig.save()
    rig.store.apply(TopicDrop("gone"))
    rig.store.apply(TimerEnded(1, DUE_MS + 1))
    rig.fire(2, DUE_MS + 2, "other")
    rig.save()
    expected = view(rig.store.state)
    rig.crash()
    again = Rig(tmp_path)
    assert again.store.report.records == 0
    assert view(again.store.state) == expected
    assert again.store.state.timers.earliest(9) == [(DUE_MS, 0)]
    again.close()


def test_changes_of_a_checkpoint_that_failed_are_told_again() -> None:
    """Before those that came since."""
    timers = Timers()
    timers.put(0, DUE_MS, 0)
    taken = timers.take_changes()
    timers.ended(0, DUE_MS)
    timers.give_back(taken)
    assert list(timers.changes) == [DUE_MS, 0, 0, DUE_MS, 0, -1]


def test_a_dropped_timer_topic_takes_all_timers_along(tmp_path: Path) -> None:
    """As a reset of a server for tests does."""
    rig = Rig(tmp_path)
    rig.delay(DUE_MS)
    rig.store.apply(TopicDrop(TOPIC))
    rig.delay(DUE_MS + 1)
    rig.save()
    rig.crash()
    again = Rig(tmp_path)
    assert again.store.state.timers.earliest(9) == [(DUE_MS + 1, 0)]
    again.close()


def test_a_checkpoint_that_a_timer_itself_sets_off_has_that_timer(tmp_path: Path) -> None:
    """The log is not read again before its position, so whoever is killed behind it relies on it."""
    rig = Rig(tmp_path, checkpoint_records=1)
    for n in range(3):
        rig.delay(DUE_MS + n)
        rig.until(lambda: rig.store._saver is not None and rig.store._saver._running is None)
    rig.delay(DUE_MS + 3)
    rig.crash()
    again = Rig(tmp_path)
    assert again.store.state.timers.earliest(9) == [(DUE_MS + n, n) for n in range(4)]
    again.close()


@pytest.mark.parametrize(
    ("a_millisecond", "carried", "bytes_max"), [(1000, False, 30), (2, False, 30), (1, False, 30), (2, True, 60)]
)
def test_a_timer_takes_little_memory(a_millisecond: int, carried: bool, bytes_max: int) -> None:
    """Numbers and due times included, the list of changes aside: a checkpoint takes it."""
    timers = Timers()
    tracemalloc.start()
    try:
        for n in range(20_000):
            timers.put(n + 1000, DUE_MS + n * 7919 % 20_000 // a_millisecond, n + 1000)
        for n in range(20_000 if carried else 0):
            timers.put(n + 30_000, DUE_MS + n * 7919 % 20_000 // a_millisecond, n + 1000)
        timers.take_changes()
        assert tracemalloc.get_traced_memory()[0] < 20_000 * bytes_max
    finally:
        tracemalloc.stop()
