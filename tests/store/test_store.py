"""The store as a whole: the order of a turn, what is refused on a full disk, what is read, how it opens and closes."""

import itertools
from pathlib import Path

import pytest

from rmq_store import journal
from rmq_store.disk import MemoryDisk, RealDisk
from rmq_store.errors import StoreError, StoreFull
from rmq_store.flush import Mode
from rmq_store.journal import Cursors, Leased, Started, TopicDrop, TopicPut
from rmq_store.record import SYS_FLAG_ROLLBACK
from rmq_store.state import Origin
from tests.store.support import GROUP, SEGMENT_BYTES, Rig, WatchedDisk, draft, log_bytes, records, recovered, view


def _journal(rig: Rig) -> list[list[str]]:
    """For each record since the start: the names of its entries, or the message's body."""
    found = records(*log_bytes(rig.store))[1:]
    return [
        [type(entry).__name__ for entry in journal.decode(r.body)]
        if r.topic == journal.TOPIC_TEXT
        else [r.body.decode()]
        for r in found
    ]


# -- turns -----------------------------------------------------------------------------------------------------------


def test_what_a_turn_changes_is_one_record_at_its_end() -> None:
    """After its messages; with RocketMQ's rollback type, queue offset 0 and no properties."""
    rig = Rig(None)
    rig.topic("t")
    rig.turn()
    rig.send("t", 0, b"one")
    rig.store.apply(Cursors("g", "t", [(0, 0)]))
    rig.send("t", 0, b"two")
    rig.store.apply(GROUP)
    rig.turn()
    assert _journal(rig) == [["TopicPut"], ["one"], ["two"], ["Cursors", "GroupPut"]]
    record = records(*log_bytes(rig.store))[-1]
    assert (record.sys_flag, record.queue_offset, record.queue_id, record.properties) == (SYS_FLAG_ROLLBACK, 0, 0, b"")
    assert record.topic == "rmq_sys_rmq_journal"
    rig.close()


def test_messages_stay_on_their_side_of_a_topics_making_and_dropping() -> None:
    """All in one turn."""
    rig = Rig(None)
    rig.send("t", 0, b"one")
    rig.store.apply(GROUP)
    rig.store.apply(TopicDrop("t"))
    rig.send("t", 0, b"two")
    rig.turn()
    assert _journal(rig) == [["TopicPut"], ["one"], ["GroupPut", "TopicDrop"], ["TopicPut"], ["two"]]
    assert rig.bodies("t") == [b"two"]
    rig.close()


def test_what_a_record_ends_is_journaled_before_it() -> None:
    """A dead letter ends a lease of the same turn."""
    rig = Rig(None)
    rig.send("t")
    rig.topic("%DLQ%g")
    rig.turn()
    rig.take("g", "t", 1)
    rig.bury(rig.store.state.leases.subscription("g", "t").ledger(0).open[0])
    rig.turn()
    assert _journal(rig)[-2:] == [["Cursors", "Leased"], ["dead"]]
    _, state, _ = recovered(*log_bytes(rig.store))
    assert state.leases.open_count == rig.store.state.leases.open_count == 0
    rig.close()


def test_a_journal_larger_than_a_record_may_be_is_several() -> None:
    """A quarter of a segment at the most, so that small segments hold it."""
    rig = Rig(None)
    for n in range(2_000):
        rig.store.apply(Leased("g", "t", rig.store.next_sequence(), 1, 1 << 50, "", [(0, n + 1, [n], [])]))
    rig.turn()
    bodies = [r.body for r in records(*log_bytes(rig.store))[1:]]
    assert len(bodies) > 3
    assert max(len(body) for body in bodies) <= SEGMENT_BYTES // 4
    _, state, _ = recovered(*log_bytes(rig.store))
    assert view(state) == view(rig.store.state)
    rig.close()


def test_messages_of_a_dropped_topic_tell_nobody_that_they_are_visible() -> None:
    """A topic of that name may be there by then, with queues of its own."""
    rig = Rig(None)
    rig.send("t", 5)
    dropped = rig.store.state.topics["t"].queues[5]
    rig.store.apply(TopicDrop("t"))
    rig.send("t", 5)
    rig.turn()
    assert rig.seen == [rig.store.state.topics["t"].queues[5]]
    assert dropped not in rig.seen
    rig.close()


# -- full disk -------------------------------------------------------------------------------------------------------


def _full(rig: Rig, disk: WatchedDisk) -> None:
    """No room any more, and messages until they are refused."""
    disk.room = 0
    rig.fill(500)


def test_on_a_full_disk_sends_are_refused_and_consuming_goes_on() -> None:
    """Until there is room again."""
    disk = WatchedDisk(MemoryDisk())
    rig = Rig(None, disk)
    rig.topic("t")
    _full(rig, disk)
    rig.turn()
    stored = rig.store.state.topics["t"].queues[0].visible
    rig.take("g", "t", stored)
    rig.ack("g", "t", 0, *range(stored))
    rig.turn()
    assert (rig.failures, rig.store.state.leases.open_count) == ([], 0)
    _, state, _ = recovered(*log_bytes(rig.store))
    assert view(state) == view(rig.store.state)
    disk.room = 1 << 40
    rig.send("t")
    rig.turn()
    assert rig.store.state.topics["t"].queues[0].visible == stored + 1
    rig.close()


def test_what_found_no_room_in_the_journal_is_not_forgotten() -> None:
    """Even the reserve is used up: the change stays first in line, whoever made it."""
    disk = WatchedDisk(MemoryDisk())
    rig = Rig(None, disk)
    rig.topic("t")
    _full(rig, disk)
    with pytest.raises(StoreFull):
        _put_for_ever(rig)
    target, message, origin = rig.topic("t"), draft("t", 0), Origin(0, "t", 0, 0, "g")
    with pytest.raises(StoreFull):
        rig.store.append(target, target.queues[0], message, 0, origin)
    rig.store.apply(GROUP)
    disk.room = 1 << 40
    rig.turn()
    _, state, _ = recovered(*log_bytes(rig.store))
    assert view(state) == view(rig.store.state)
    rig.close()


def _put_for_ever(rig: Rig) -> None:
    for n in itertools.count():
        rig.store.apply(TopicPut(f"{'t' * 90}{n}", 1, 1))


def test_a_used_up_reserve_stops_the_store_before_an_ack_is_answered() -> None:
    """Better a clear stop than an ack that is undone."""
    disk = WatchedDisk(MemoryDisk())
    rig = Rig(None, disk)
    rig.topic("t")
    _full(rig, disk)
    rig.turn()
    answer: object = None
    while not rig.failures:
        rig.store.apply(Leased("g", "t", rig.store.next_sequence(), 1, 1 << 50, "c" * 1000, [(0, 1, [0], [])]))
        answer = rig.store.when_safe(None)
        rig.turn()
    with pytest.raises(StoreError, match="disk full"):
        rig.wait(answer)
    rig.close()


def test_a_store_opens_on_a_full_disk(tmp_path: Path) -> None:
    """To let its messages be consumed: its first journal entry fits what the last run had reserved."""
    rig = Rig(tmp_path)
    rig.send("t", 0, b"one")
    rig.close()
    disk = WatchedDisk(RealDisk(tmp_path))
    disk.room = 64 << 10
    rig = Rig(tmp_path, disk, free_min_bytes=1 << 30)
    rig.take("g", "t", 1)
    rig.turn()
    assert (rig.bodies("t"), rig.failures) == ([b"one"], [])
    with pytest.raises(StoreFull):
        rig.send("t")
    rig.close()


# -- reading ---------------------------------------------------------------------------------------------------------


def test_an_entry_that_points_to_another_message_is_reported_not_delivered(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is delivered that was not sent to this queue at this offset."""
    rig = Rig(None)
    rig.send("t", 0)
    rig.send("t", 1)
    rig.turn()
    first, second = rig.store.state.topics["t"].queues
    assert rig.store.read(first, 0, second.read(0, 1)[0]) is None
    assert "t queue 0 offset 0 is damaged: it belongs to t queue 1 offset 0" in caplog.text
    rig.close()


def test_a_message_that_retention_took_is_gone_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """It is no damage."""
    rig = Rig(None)
    rig.send("t", 0)
    rig.turn()
    queue = rig.store.state.topics["t"].queues[0]
    entry = queue.read(0, 1)[0]
    rig.roll()
    rig.retain()
    assert rig.store.read(queue, 0, entry) is None
    assert caplog.text == ""
    rig.close()


# -- opening and closing ---------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_opened_is_one_clear_line_and_lets_go_of_the_lock(tmp_path: Path) -> None:
    """Here a folder stands where a segment should."""
    Rig(tmp_path).close()
    segment = tmp_path / "commitlog" / f"{0:020d}"
    segment.rename(tmp_path / "kept")
    segment.mkdir()
    for _ in range(2):
        with pytest.raises(StoreError) as refused:
            Rig(tmp_path)
        assert "\n" not in str(refused.value)
    segment.rmdir()
    (tmp_path / "kept").rename(segment)
    Rig(tmp_path).close()


def test_small_segments_hold_large_records_and_everything_comes_back(tmp_path: Path) -> None:
    """64 KiB, a configured size of 1 GiB notwithstanding: the files that are there count."""
    rig = Rig(tmp_path)
    sizes = [60_000, 10, 30_000, 65_000, 5_000, 64_000, 0]
    for size in sizes:
        rig.send("t", 0, bytes(size))
        rig.turn()
    rig.crash()
    rig = Rig(tmp_path, segment_bytes=1 << 30, reserve_bytes=64 << 20)
    assert rig.store.log.segment_bytes == SEGMENT_BYTES
    assert [len(body or b"") for body in rig.bodies("t")] == sizes
    rig.send("t", 0, bytes(60_000))
    rig.close()


def test_a_store_in_memory_is_a_ring() -> None:
    """It keeps about as much as it may, and the last messages."""
    rig = Rig(None, mode=Mode.MEMORY)
    for n in range(100):
        rig.send("t", 0, b"%05d" % n + bytes(10_000))
        rig.turn()
        rig.retain(bytes_max=4 * SEGMENT_BYTES)
        assert rig.store.log.end - rig.store.log.begin <= 5 * SEGMENT_BYTES
    bodies = [(body or b"")[:5] for body in rig.bodies("t")]
    assert bodies == [b"%05d" % n for n in range(100 - len(bodies), 100)]
    assert len(bodies) >= 15
    rig.close()


def test_no_timer_of_a_closed_store_does_anything(tmp_path: Path) -> None:
    """In a loop that lives on, as under pytest."""
    rig = Rig(tmp_path, checkpoint_interval_ms=1, flush_interval_ms=1)
    rig.send("t")
    rig.turn()
    rig.store.close()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    rig.store.apply(Started(50))
    rig.loop.call_later(0.02, rig.loop.stop)
    rig.loop.run_forever()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    rig.end()
