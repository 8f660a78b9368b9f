"""Old segments go by age and by size; what lives in them is carried forward first, and keeps its name."""

import asyncio
import shutil
from pathlib import Path

import pytest

from rmq_store.disk import RealDisk
from rmq_store.errors import StoreError
from rmq_store.flush import Mode
from rmq_store.journal import Cursors, Extended, StateEnd, TopicDrop, TopicPut
from rmq_store.retention import Retention
from rmq_store.segment import FOLDER, path_of
from tests.store.support import GROUP, SEGMENT_BYTES, Rig, WatchedDisk, log_bytes, recovered, view

HOUR_MS = 3_600_000


def _with_lease() -> Rig:
    """Ten messages in the first segment; group g has taken the first six and acked two of them."""
    rig = Rig(None)
    for n in range(10):
        rig.send("t", 0, b"%d" % n, properties=b"TAGS\x01A\x02UNIQ_KEY\x01K%d\x02" % n)
    rig.turn()
    rig.take("g", "t", 6, due_ms=rig.now_ms + 30_000, client="c")
    rig.ack("g", "t", 0, 0, 2)
    rig.turn()
    return rig


def _replayed_equals_live(rig: Rig) -> None:
    rig.turn()
    _, state, report = recovered(*log_bytes(rig.store))
    assert report.damaged == []
    assert view(state, rig.now_ms) == view(rig.store.state, rig.now_ms)


def test_the_oldest_segment_goes_when_its_last_message_is_old_enough() -> None:
    """Never before, and never the one that is being written."""
    rig = _with_lease()
    rig.roll()
    rig.retain(bytes_max=0, age_ms=HOUR_MS)
    assert rig.store.log.begin == 0
    rig.now_ms += HOUR_MS
    rig.retain(bytes_max=0, age_ms=HOUR_MS)
    assert (rig.store.log.begin, len(rig.store.log.segments)) == (SEGMENT_BYTES, 1)
    rig.now_ms += HOUR_MS
    rig.retain(bytes_max=0, age_ms=HOUR_MS)
    assert rig.store.log.begin == SEGMENT_BYTES
    rig.close()


def test_segments_go_while_the_log_is_larger_than_its_limit() -> None:
    """Oldest first."""
    rig = Rig(None)
    for _ in range(4):
        rig.roll()
    rig.retain(bytes_max=3 * SEGMENT_BYTES)
    assert rig.store.log.begin == 2 * SEGMENT_BYTES
    rig.retain(bytes_max=3 * SEGMENT_BYTES)
    assert rig.store.log.begin == 2 * SEGMENT_BYTES
    rig.close()


def test_damage_at_the_start_of_a_segment_makes_nothing_older() -> None:
    """The age is then that of its next whole record."""
    rig = _with_lease()
    rig.roll()
    rig.store.log.segments[1].write(SEGMENT_BYTES, bytes(8))
    rig.retain(bytes_max=0, age_ms=HOUR_MS)
    assert rig.store.log.begin == 0
    rig.close()


def test_open_messages_move_to_the_groups_retry_topic_and_keep_their_lease() -> None:
    """Acked ones and those that nobody took go; body, tags, key, times and attempt stay; old handles find them."""
    rig = _with_lease()
    ledger = rig.store.state.leases.subscription("g", "t").ledger(0)
    before = {offset: (f.lease.sequence, f.lease.due_ms) for offset, f in ledger.open.items() if f.lease}
    born_ms = rig.store.log.read(*rig.store.state.topics["t"].queues[0].read(1, 1)[0][:2]).born_ms
    rig.roll()
    rig.retain()
    assert (rig.store.log.begin, rig.store.state.topics["t"].queues[0].min_offset) == (SEGMENT_BYTES, 10)
    assert {o: (f.lease.sequence, f.lease.due_ms) for o in before if (f := ledger.find(o)) and f.lease} == before
    assert {f.lease.client for f in ledger.moved.values() if f.lease} == {"c"}
    retry = rig.store.state.topics["%RETRY%g"].queues[0]
    found = [rig.store.read(retry, offset, retry.read(offset, 1)[0]) for offset in range(4)]
    assert [r.body for r in found if r] == [b"1", b"3", b"4", b"5"]
    for record in found:
        assert record is not None
        properties = record.decode_properties()
        assert (record.born_ms, record.reconsume_times, properties["TAGS"]) == (born_ms, 0, "A")
        assert (properties["RETRY_TOPIC"], properties["UNIQ_KEY"]) == ("t", f"K{record.body.decode()}")
    _replayed_equals_live(rig)
    rig.ack("g", "t", 0, 3)
    rig.store.apply(Extended("g", "t", 0, 4, rig.store.next_sequence(), rig.now_ms, rig.now_ms + 99, 2))
    rig.turn()
    assert (ledger.find(3), rig.store.state.leases.open_count) == (None, 3)
    _replayed_equals_live(rig)
    rig.close()


def test_a_message_that_was_suspended_before_it_counted_once_is_carried_as_well() -> None:
    """Its attempt is 0, which in a record's origin would mean that it is done."""
    rig = _with_lease()
    rig.store.apply(Extended("g", "t", 0, 1, rig.store.next_sequence(), rig.now_ms, rig.now_ms + 99, 0))
    rig.roll()
    rig.retain()
    found = rig.store.state.leases.subscription("g", "t").ledger(0).find(1)
    assert found is not None
    assert (found.attempt, found.ledger.subscription.topic) == (0, "%RETRY%g")
    _replayed_equals_live(rig)
    rig.close()


def test_a_carried_message_is_carried_again_under_its_first_name() -> None:
    """As often as segments go."""
    rig = _with_lease()
    for n in range(1, 4):
        rig.roll()
        rig.retain()
        assert rig.store.log.begin == n * SEGMENT_BYTES
        ledger = rig.store.state.leases.subscription("g", "t").ledger(0)
        assert sorted(ledger.moved) == [1, 3, 4, 5]
        _replayed_equals_live(rig)
    queue = rig.store.state.topics["%RETRY%g"].queues[0]
    assert (queue.min_offset, queue.max_offset) == (8, 12)
    rig.close()


def test_each_group_that_still_needs_a_message_gets_it_in_its_own_retry_topic() -> None:
    """Topics of other groups hold nothing of it."""
    rig = Rig(None)
    rig.send("t", 0, b"both")
    rig.turn()
    rig.take("g", "t", 1)
    rig.take("h", "t", 1)
    rig.roll()
    rig.retain()
    assert (rig.bodies("%RETRY%g"), rig.bodies("%RETRY%h")) == ([b"both"], [b"both"])
    _replayed_equals_live(rig)
    rig.close()


def test_nobody_is_given_a_message_of_a_segment_that_is_on_its_way_out() -> None:
    """It would be leased behind the back of those who carry."""
    rig = Rig(None)
    for topic in ("t", "u"):
        rig.send(topic)
    rig.turn()
    rig.roll()
    retention = Retention(rig.store, age_ms=HOUR_MS, bytes_max=1)
    work = retention._delete_before(SEGMENT_BYTES)
    next(work)
    for _ in range(3):
        next(work)
    rig.take("g", "t", 5)
    rig.turn()
    ledger = rig.store.state.leases.subscription("g", "t").ledger(0)
    assert (ledger.open, rig.store.state.topics["t"].queues[0].min_offset) == ({}, 1)
    rig.close()


def test_queue_offsets_go_on_when_all_messages_of_a_queue_went() -> None:
    """After a replay of what is left, too."""
    rig = Rig(None)
    for _ in range(5):
        rig.send("t", 1)
    rig.turn()
    rig.roll()
    rig.retain()
    queue = rig.store.state.topics["t"].queues[1]
    assert (queue.min_offset, queue.max_offset) == (5, 5)
    _, state, _ = recovered(*log_bytes(rig.store))
    replayed = state.topics["t"].queues[1]
    assert (replayed.min_offset, replayed.max_offset) == (5, 5)
    assert rig.send("t", 1) == 5
    rig.close()


def test_live_messages_stay_where_there_is_no_room_to_carry_them() -> None:
    """The segment stays, all is readable; when there is room it goes."""
    rig = _with_lease()
    disk = WatchedDisk(rig.store.disk)
    rig.roll()
    rig.store.log._disk = disk
    disk.room = 0
    rig.fill(1000)
    retention = Retention(rig.store, age_ms=0, bytes_max=1)
    for _ in range(20):
        retention.step(rig.now_ms)
        rig.turn()
    assert rig.store.log.begin == 0
    assert rig.store.state.leases.open_count == 4
    disk.room = 1 << 60
    rig.retain()
    assert (rig.store.log.begin, rig.store.state.leases.open_count) == (SEGMENT_BYTES, 4)
    _replayed_equals_live(rig)
    rig.close()


def test_more_that_lives_than_the_limit_allows_is_not_copied_for_ever() -> None:
    """Only when another segment of messages came."""
    rig = Rig(None)
    for _ in range(40):
        rig.send("t", body=bytes(5_000))
    rig.turn()
    rig.take("g", "t", 40)
    rig.turn()
    rig.retain(bytes_max=SEGMENT_BYTES)
    assert rig.store.log.end < 8 * SEGMENT_BYTES
    assert rig.store.state.leases.open_count == 40
    _replayed_equals_live(rig)
    rig.close()


def test_a_dropped_topic_is_not_carried() -> None:
    """Nor is what was carried of it."""
    rig = _with_lease()
    rig.roll()
    rig.retain()
    rig.store.apply(TopicDrop("t"))
    rig.roll()
    rig.retain()
    assert (rig.store.state.leases.open_count, rig.bodies("%RETRY%g")) == (0, [])
    _replayed_equals_live(rig)
    rig.close()


# -- state at the start of a segment ---------------------------------------------------------------------------------


def test_a_segment_begins_with_all_topics_groups_and_places() -> None:
    """Over as many turns as it takes, closed by a mark; what changes meanwhile is right, too."""
    rig = Rig(None, segment_bytes=1 << 20, reserve_bytes=1 << 20)
    for n in range(1500):
        rig.store.apply(TopicPut(f"t{n}", 1, 1))
        rig.store.apply(Cursors("g", f"t{n}", [(0, n)]))
    rig.store.apply(GROUP)
    rig.turn()
    base = rig.store.log.segments[-1].end
    while rig.store.log.end < base:
        rig.send("filler", body=bytes(200_000))
    turns = 0
    while base not in rig.store.state.state_complete:
        rig.store.apply(TopicDrop(f"t{turns * 37}"))
        rig.store.apply(TopicDrop(f"t{1499 - turns}"))
        rig.send(f"t{1499 - turns}", 1)
        rig.store.apply(Cursors("g", f"t{300 + turns}", [(0, turns)]))
        rig.turn()
        turns += 1
    assert turns > 2
    rig.retain()
    assert rig.store.log.begin == base
    _, state, _ = recovered(*log_bytes(rig.store), segment_bytes=1 << 20)
    assert view(state) == view(rig.store.state)
    rig.close()


@pytest.mark.parametrize("at", range(0, 12))
def test_a_topic_dropped_between_any_two_of_its_state_entries_breaks_nothing(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queues' ends come together with it, or not at all."""
    monkeypatch.setattr("rmq_store.store._STATE_CHANGES", 1)
    rig = Rig(None)
    for name in ("a", "b", "c"):
        rig.send(name, 1)
    rig.turn()
    rig.roll()
    base = rig.store.log.segments[-1].base
    rig.roll()
    for _ in range(at):
        rig.turn()
    for name in ("a", "b", "c"):
        rig.store.apply(TopicDrop(name))
        rig.send(name, 0)
    while rig.store._state_left is not None:
        rig.turn()
    _replayed_equals_live(rig)
    rig.retain()
    assert rig.store.log.begin > base - SEGMENT_BYTES
    _replayed_equals_live(rig)
    rig.close()


def test_a_segment_without_a_state_of_its_own_goes_with_the_one_before() -> None:
    """A batch rolled twice before the first repetition was done."""
    rig = _with_lease()
    for _ in range(7):
        rig.send("filler", body=bytes(30_000))
    rig.turn()
    rig.turn()
    segments = [segment.base for segment in rig.store.log.segments]
    assert len(segments) == 4
    assert set(segments[1:]) - rig.store.state.state_complete
    rig.roll()
    rig.roll()
    rig.retain()
    assert rig.store.log.begin >= 4 * SEGMENT_BYTES
    _replayed_equals_live(rig)
    rig.close()


def test_a_state_larger_than_a_segment_does_not_roll_on_for_ever() -> None:
    """It is repeated once, however many segments that takes."""
    rig = Rig(None)
    for n in range(3_000):
        rig.store.apply(TopicPut(f"a topic with a longish name {n}", 1, 1))
        if n % 100 == 0:
            rig.turn()
    for _ in range(500):
        rig.turn()
    end = rig.store.log.end
    for _ in range(50):
        rig.turn()
    assert rig.store.log.end == end
    assert rig.store.state.state_complete
    _replayed_equals_live(rig)
    rig.close()


def test_the_mark_of_a_state_names_the_segment_that_it_completes() -> None:
    """In a replay as live."""
    rig = Rig(None)
    rig.roll()
    _, state, _ = recovered(*log_bytes(rig.store))
    assert state.state_complete == rig.store.state.state_complete == {SEGMENT_BYTES}
    state.apply(StateEnd(7))
    assert 7 in state.state_complete
    rig.close()


# -- on disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.DURABLE, Mode.FAST])
def test_a_segment_goes_only_after_what_was_carried_is_safe(tmp_path: Path, mode: Mode) -> None:
    """A crash between the two finds both, and carries nothing twice."""
    disk = WatchedDisk(RealDisk(tmp_path))
    rig = Rig(tmp_path, disk, mode=mode)
    for n in range(4):
        rig.send("t", 0, b"%d" % n)
    rig.wait(rig.store.when_safe(None))
    rig.take("g", "t", 3)
    rig.roll()
    rig.wait(rig.store.when_safe(None))
    if mode is Mode.DURABLE:
        disk.gate.clear()
    retention = Retention(rig.store, age_ms=HOUR_MS, bytes_max=1)
    while retention.step(rig.now_ms):
        rig.turn()
    assert isinstance(retention._saving, asyncio.Future)
    assert (tmp_path / path_of(0)).exists()
    disk.gate.set()
    rig.until(retention._saving.done)
    shutil.copytree(tmp_path, tmp_path / "copy")
    copy = Rig(tmp_path / "copy")
    assert (copy.store.log.begin, copy.store.state.leases.open_count) == (0, 3)
    copy.retain()
    assert (copy.bodies("%RETRY%g"), copy.store.state.leases.open_count) == ([b"0", b"1", b"2"], 3)
    copy.close()
    rig.until(lambda: not retention.step(rig.now_ms) and not (tmp_path / path_of(0)).exists())
    rig.close()


def test_a_segment_stays_until_all_is_on_the_disk(tmp_path: Path) -> None:
    """Also in profile fast, which answers before: the fsync that is under way, and the one for what was carried."""
    disk = WatchedDisk(RealDisk(tmp_path))
    rig = Rig(tmp_path, disk, flush_interval_ms=1)
    disk.gate.clear()
    rig.send("t", body=bytes(1000))
    rig.until(lambda: disk.at_once == 1)
    rig.roll()
    retention = Retention(rig.store, age_ms=1 << 50, bytes_max=1)
    while retention._saving is None:
        retention.step(rig.now_ms)
    assert (retention.step(rig.now_ms), rig.store.log.begin) == (False, 0)
    disk.gate.set()
    rig.until(retention._saving.done)
    assert rig.store.flusher.synced > SEGMENT_BYTES
    rig.retain()
    rig.send("t")
    rig.until(lambda: disk.list(FOLDER) == [f"{SEGMENT_BYTES:020d}"] and rig.store.flusher.synced == rig.store.log.end)
    assert rig.failures == []
    rig.close()


def test_retention_ends_with_the_log(tmp_path: Path) -> None:
    """A sync that fails while it waits is the store's end, and nothing was deleted."""
    disk = WatchedDisk(RealDisk(tmp_path))
    rig = Rig(tmp_path, disk)
    rig.roll()
    disk.broken.add(("sync", FOLDER))
    retention = Retention(rig.store, age_ms=1 << 50, bytes_max=1)
    with pytest.raises(StoreError, match="fsync"):
        rig.until(lambda: not retention.step(rig.now_ms) and retention._saving is None)
    assert rig.store.log.begin == 0
    with pytest.raises(StoreError, match="fsync"):
        rig.store.flusher.when_on_disk().result()
    rig.crash()


@pytest.mark.parametrize("how", ["close", "crash", "lose"])
def test_after_a_restart_queues_begin_where_the_log_does(tmp_path: Path, how: str) -> None:
    """With a checkpoint from before the deletion, from after it, or none."""
    rig = Rig(tmp_path)
    for n in range(6):
        rig.send("t", 0, b"%d" % n)
    rig.turn()
    rig.take("g", "t", 2)
    rig.turn()
    rig.roll()
    rig.save()
    rig.retain()
    rig.send("t", 0, b"new")
    rig.turn()
    expected = view(rig.store.state)
    rig.close() if how == "close" else rig.crash()
    if how == "lose":
        shutil.rmtree(tmp_path / "rmq" / "checkpoint")
    rig = Rig(tmp_path)
    assert view(rig.store.state) == expected
    assert (rig.bodies("t"), rig.bodies("%RETRY%g")) == ([b"new"], [b"0", b"1"])
    assert rig.store.state.topics["t"].queues[0].min_offset == 6
    rig.close()


def test_a_crash_between_the_cut_and_the_deletion_starts_over(tmp_path: Path) -> None:
    """Also with a checkpoint of that moment: what is open there can still be read, and carried."""
    rig = Rig(tmp_path)
    rig.send("t", 0, b"open")
    rig.turn()
    rig.take("g", "t", 1)
    rig.roll()
    work = Retention(rig.store, age_ms=HOUR_MS, bytes_max=1)._delete_before(SEGMENT_BYTES)
    while rig.store.state.topics["t"].queues[0].min_offset == 0:
        next(work)
    rig.store.state.dirty_topics.add("t")
    rig.save()
    rig.crash()
    rig = Rig(tmp_path)
    assert rig.bodies("t") == [b"open"]
    rig.retain()
    assert (rig.store.log.begin, rig.bodies("%RETRY%g")) == (SEGMENT_BYTES, [b"open"])
    rig.close()
