"""When an answer is given: after the fsync, the write or the append, in order, and never after a failure."""

import asyncio

import pytest

from rmq_store.disk import MemoryDisk
from rmq_store.errors import StoreError
from rmq_store.flush import Mode
from rmq_store.journal import Started
from tests.store.support import Rig, WatchedDisk, draft


def _rig(mode: Mode, **settings: object) -> tuple[Rig, WatchedDisk]:
    disk = WatchedDisk(MemoryDisk())
    rig = Rig(None, disk, mode=mode, **settings)
    rig.turn()
    disk.calls.clear()
    return rig, disk


def _answer(rig: Rig, topic: str = "t") -> "asyncio.Future[int]":
    answer = rig.store.when_safe(rig.send(topic))
    assert isinstance(answer, asyncio.Future)
    return answer


def test_a_durable_answer_comes_after_its_fsync_and_not_before() -> None:
    """Nor is the message visible before."""
    rig, disk = _rig(Mode.DURABLE)
    disk.gate.clear()
    answer = _answer(rig)
    rig.until(lambda: disk.at_once == 1)
    rig.turn()
    queue = rig.store.state.topics["t"].queues[0]
    assert (answer.done(), queue.visible, queue.max_offset, rig.seen) == (False, 0, 1, [])
    disk.gate.set()
    assert rig.wait(answer) == 0
    assert (queue.visible, rig.seen) == (1, [queue])
    rig.close()


def test_all_turns_while_an_fsync_is_in_flight_share_the_next() -> None:
    """At most one at a time, however many wait."""
    rig, disk = _rig(Mode.DURABLE)
    disk.gate.clear()
    answers = [_answer(rig)]
    rig.until(lambda: disk.at_once == 1)
    for _ in range(50):
        answers.append(_answer(rig))
        rig.turn()
    disk.gate.set()
    assert [rig.wait(answer) for answer in answers] == list(range(51))
    assert (disk.syncs(), disk.at_once_max) == (2, 1)
    rig.close()


def test_all_messages_of_a_turn_are_one_write() -> None:
    """The journal of the turn included."""
    rig, disk = _rig(Mode.DURABLE)
    rig.topic("t")
    rig.turn()
    disk.calls.clear()
    answers = [_answer(rig) for _ in range(50)]
    rig.take("g", "t", 1)
    rig.wait(answers[-1])
    assert [call for call in disk.calls if call[0] == "write"] == [("write", f"commitlog/{0:020d}")]
    rig.close()


def test_a_fast_answer_comes_after_the_write_and_an_fsync_follows() -> None:
    """Safe from kill -9; the interval bounds what a power cut takes."""
    rig, disk = _rig(Mode.FAST, flush_interval_ms=20)
    answer = _answer(rig)
    assert not answer.done()
    rig.turn()
    assert (answer.done(), rig.store.state.topics["t"].queues[0].visible, disk.syncs()) == (True, 1, 0)
    rig.until(lambda: disk.syncs() == 1)
    rig.close()


def test_a_memory_answer_is_given_at_once() -> None:
    """Nothing is to be waited for."""
    rig = Rig(None, mode=Mode.MEMORY)
    assert rig.store.when_safe(rig.send("t")) == 0
    rig.turn()
    assert rig.store.state.topics["t"].queues[0].visible == 1
    rig.close()


@pytest.mark.parametrize("mode", [Mode.DURABLE, Mode.FAST])
def test_what_is_safe_already_is_answered_without_another_fsync(mode: Mode) -> None:
    """An ack that is repeated changes nothing, and must not wait for somebody else's message."""
    rig, disk = _rig(mode)
    rig.wait(_answer(rig))
    before = disk.syncs()
    assert rig.wait(rig.store.when_safe("again")) == "again"
    assert disk.syncs() == before
    rig.close()


@pytest.mark.parametrize("mode", [Mode.DURABLE, Mode.FAST])
def test_what_nobody_waits_for_is_synced_within_the_interval(mode: Mode) -> None:
    """Also what was appended while another fsync was in flight and the interval's end passed."""
    rig, disk = _rig(mode, flush_interval_ms=10)
    disk.gate.clear()
    rig.send("t")
    rig.until(lambda: disk.at_once == 1)
    rig.send("t")
    rig.turn()
    assert rig.store.flusher._background is not None
    rig.until(lambda: rig.store.flusher._background is None)
    disk.gate.set()
    rig.until(lambda: rig.store.flusher.synced == rig.store.log.end)
    assert rig.store.state.topics["t"].queues[0].visible == 2
    rig.close()


def test_a_failed_fsync_fails_every_waiting_answer_and_is_final() -> None:
    """The kernel may report success next time, and have dropped the pages."""
    rig, disk = _rig(Mode.DURABLE)
    disk.gate.clear()
    first = _answer(rig)
    rig.until(lambda: disk.at_once == 1)
    second = _answer(rig)
    disk.broken.add(("sync", "commitlog"))
    rig.turn()
    third = _answer(rig)
    disk.gate.set()
    for answer in (first, second, third):
        with pytest.raises(StoreError, match="fsync"):
            rig.wait(answer)
    disk.broken.clear()
    with pytest.raises(StoreError, match="fsync"):
        rig.wait(_answer(rig))
    assert (len(rig.failures), rig.store.state.topics["t"].queues[0].visible) == (1, 0)
    rig.close()


def test_a_failed_write_fails_the_turn_and_is_final() -> None:
    """No answer of the turn is given, none of a later one."""
    rig, disk = _rig(Mode.FAST)
    rig.wait(_answer(rig))
    disk.broken.add(("write", "commitlog"))
    answers = [_answer(rig), _answer(rig)]
    for answer in answers:
        with pytest.raises(StoreError, match="cannot write"):
            rig.wait(answer)
    disk.broken.clear()
    with pytest.raises(StoreError, match="cannot write"):
        rig.store.append(rig.topic("t"), rig.topic("t").queues[0], draft("t", 0), 0)
    assert len(rig.failures) == 1
    rig.close()


def test_closing_answers_what_waits_and_syncs_it() -> None:
    """In the same turn, and with an fsync in flight."""
    rig, disk = _rig(Mode.DURABLE)
    disk.gate.clear()
    first = _answer(rig)
    rig.until(lambda: disk.at_once == 1)
    second = _answer(rig)
    disk.gate.set()
    rig.store.close()
    assert (first.result(), second.result()) == (0, 1)
    rig.turn()
    late = rig.store.when_safe("late")
    with pytest.raises(StoreError, match="closed"):
        rig.wait(late)
    rig.end()


def test_closing_does_not_forget_that_the_fsync_in_flight_failed() -> None:
    """Its answers fail, although a second fsync of the same file would succeed."""
    rig, disk = _rig(Mode.DURABLE)
    disk.gate.clear()
    answer = _answer(rig)
    rig.until(lambda: disk.at_once == 1)
    disk.broken.add(("sync", "commitlog"))
    disk.gate.set()
    in_flight = rig.store.flusher._sync
    assert in_flight is not None
    assert in_flight[1].exception(10) is not None
    disk.broken.clear()
    with pytest.raises(StoreError, match="fsync"):
        rig.store.close()
    with pytest.raises(StoreError, match="fsync"):
        rig.wait(answer)
    rig.end()


def test_an_fsync_that_fails_at_the_close_is_an_error() -> None:
    """And no checkpoint claims what is not safe."""
    rig, disk = _rig(Mode.FAST)
    rig.wait(_answer(rig))
    disk.broken.add(("sync", "commitlog"))
    with pytest.raises(StoreError, match="fsync"):
        rig.close()


def test_nothing_is_written_after_the_close() -> None:
    """The files are given back: their numbers may be another file's by now."""
    rig, disk = _rig(Mode.FAST)
    rig.send("t")
    rig.store.close()
    disk.calls.clear()
    rig.store.apply(Started(99))
    for _ in range(3):
        rig.turn()
    assert disk.calls == []
    rig.end()
