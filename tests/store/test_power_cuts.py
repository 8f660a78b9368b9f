"""What a power cut takes, and what it must not: the store on a disk that forgets what was not synced."""

import tempfile
from pathlib import Path

import pytest

from rmq_store.doubt import Doubt
from rmq_store.errors import StoreError
from rmq_store.flush import Mode
from rmq_store.halves import TOPIC as HALVES
from rmq_store.journal import Cursors, Extended, Grouped, Leased, LitePlaces, StateEnd
from rmq_store.lines import PROPERTY, key_of
from rmq_store.lites import PROPERTY as LITE
from rmq_store.record import encode_properties
from rmq_store.segment import FOLDER, Segment
from rmq_store.state import Origin
from rmq_store.timers import TOPIC as TIMERS
from tests.sim.disk import SimDisk
from tests.store.support import Rig, view


def _another(tmp_path: Path) -> Path:
    """A directory for LMDB: the next start has no checkpoint."""
    return Path(tempfile.mkdtemp(dir=tmp_path))


def test_bytes_of_a_failed_sync_are_written_again_at_the_next_start(tmp_path: Path) -> None:
    """The page cache shows them, a second sync succeeds without writing them, and a power cut would take them."""
    disk = SimDisk()
    rig = Rig(tmp_path, disk, mode=Mode.DURABLE)
    rig.send("t", body=b"one")
    disk.faults.arm("sync", FOLDER, 1)
    with pytest.raises(StoreError, match="fsync"):
        rig.wait(rig.store.when_safe(None))
    rig.crash()
    rig = Rig(tmp_path, disk, mode=Mode.DURABLE)
    assert rig.bodies("t") == [b"one"]
    rig.crash()
    rig = Rig(tmp_path, disk.only_synced(), mode=Mode.DURABLE)
    assert rig.bodies("t") == [b"one"]


def test_a_sync_that_failed_for_one_worker_fails_for_the_other() -> None:
    """The system tells of a failure once: what the checkpoint's worker heard, the answers' worker must hear too."""
    disk = SimDisk()
    segment = Segment(disk, 0, 1024)
    segment.write(0, b"data")
    disk.faults.arm("sync", FOLDER, 1)
    with pytest.raises(OSError, match="Input/output error"):
        segment.sync()
    with pytest.raises(OSError, match="Input/output error"):
        segment.sync()


def test_a_checkpoint_that_cannot_sync_the_log_ends_the_store(tmp_path: Path) -> None:
    """An answer after it would be a promise about bytes that are nowhere."""
    disk = SimDisk()
    rig = Rig(tmp_path, disk, mode=Mode.DURABLE)
    rig.send("t")
    rig.store.flusher.end_turn()
    disk.faults.arm("sync", FOLDER, 1)
    rig.save()
    with pytest.raises(StoreError, match="fsync"):
        rig.wait(rig.store.when_safe(None))
    rig.crash()


def test_a_segment_goes_when_what_was_carried_forward_is_on_the_disk(tmp_path: Path) -> None:
    """Also in profile fast, which answers before: the message was older than what a power cut may take."""
    disk = SimDisk()
    rig = Rig(tmp_path, disk, mode=Mode.FAST)
    rig.send("t", body=b"kept")
    rig.turn()
    rig.take("g", "t", 1)
    rig.store.flusher.finish()
    rig.roll()
    rig.roll()
    rig.retain()
    rig.store._syncer.submit(int).result()
    rig.store._worker.submit(int).result()
    rig.crash()
    rig = Rig(_another(tmp_path), disk.only_synced())
    assert rig.store.log.begin > 0
    assert b"kept" in rig.bodies("%RETRY%g")
    rig.crash()


# -- holes -----------------------------------------------------------------------------------------------------------


def _with_hole(tmp_path: Path, *, sends: int = 3, lost: int) -> Rig:
    """A log of `sends` messages and one journal record for each that is leased, one by one; one of these is damaged."""
    disk = SimDisk()
    rig = Rig(tmp_path, disk)
    for _ in range(sends):
        rig.send("t")
    rig.turn()
    rig.store.apply(Cursors("g", "t", [(0, 0)]))
    rig.turn()
    ends = []
    for offset in range(sends):
        sequence = rig.store.next_sequence()
        rig.store.apply(Leased("g", "t", sequence, rig.now_ms, 1 << 50, "", [(0, offset + 1, [offset], [])]))
        ends.append(rig.store.log.end)
        rig.turn()
    rig.store.flusher.finish()
    segment = rig.store.log.segments[0]
    segment.write(ends[lost], bytes(40))
    segment.sync()
    rig.crash()
    return Rig(_another(tmp_path), disk)


def test_a_delivery_whose_record_is_lost_is_made_again(tmp_path: Path) -> None:
    """A later record says that the group is further: what it passes over, and nobody knows of, is not skipped."""
    rig = _with_hole(tmp_path, lost=1)
    ledger = rig.store.state.leases.subscription("g", "t").ledger(0)
    assert {offset: found.lease is not None for offset, found in ledger.open.items()} == {0: True, 1: False, 2: True}
    assert ledger.next == 3
    rig.crash()


def test_a_lost_record_is_found_missing_once(tmp_path: Path) -> None:
    """The next replay of the same log comes to the same state."""
    rig = _with_hole(tmp_path, lost=0)
    before = view(rig.store.state)
    disk = rig.store.disk
    rig.crash()
    rig = Rig(_another(tmp_path), disk)
    assert view(rig.store.state)["places"] == before["places"]
    rig.crash()


def test_a_lease_that_names_a_message_again_does_not_hide_a_lost_delivery(tmp_path: Path) -> None:
    """Of 0 and 1 the delivery is lost; the next lease holds 0 once more, and a new 2: 1 is not settled by it."""
    rig = Rig(tmp_path, SimDisk())
    for _ in range(3):
        rig.send("t")
    doubt, state = Doubt(rig.store.state, rig.store.log), rig.store.state
    doubt.begin(rig.store.log.end)
    again = Leased("g", "t", 7, 0, 1 << 50, "", [(0, 3, [0, 2], [2, 1])])
    assert doubt.before(again)
    state.apply(again)
    ledger = state.leases.subscription("g", "t").ledger(0)
    assert {offset: found.lease is not None for offset, found in ledger.open.items()} == {0: True, 1: False, 2: True}
    rig.crash()


def test_an_ack_holds_though_the_delivery_s_record_is_lost(tmp_path: Path) -> None:
    """It proves that there was one."""
    disk = SimDisk()
    rig = Rig(tmp_path, disk)
    for _ in range(3):
        rig.send("t")
    rig.turn()
    start = rig.store.log.end
    rig.take("g", "t", 3)
    rig.turn()
    rig.ack("g", "t", 0, 1)
    rig.turn()
    rig.store.flusher.finish()
    rig.store.log.segments[0].write(start, bytes(40))
    rig.store.log.segments[0].sync()
    rig.crash()
    rig = Rig(_another(tmp_path), disk)
    ledger = rig.store.state.leases.subscription("g", "t").ledger(0)
    assert (ledger.next, sorted(ledger.open)) == (2, [0])
    rig.crash()


def test_new_messages_come_behind_what_a_group_has_had(tmp_path: Path) -> None:
    """Messages are lost, a record of their delivery is not: the next ones take other offsets, or they were skipped."""
    disk = SimDisk()
    rig = Rig(tmp_path, disk)
    rig.topic("t", queues=2)
    rig.turn()
    start = rig.store.log.end
    for _ in range(3):
        rig.send("t", queue_id=1)
    rig.turn()
    end = rig.store.log.end
    rig.take("g", "t", 3)
    rig.turn()
    rig.store.flusher.finish()
    rig.store.log.segments[0].write(start, bytes(end - start))
    rig.store.log.segments[0].sync()
    rig.crash()
    rig = Rig(_another(tmp_path), disk)
    assert rig.send("t", queue_id=1) == 3
    rig.crash()


def test_a_queue_that_only_its_use_tells_of_is_there(tmp_path: Path) -> None:
    """The record that made the topic is lost, and with it the number of its queues."""
    disk = SimDisk()
    rig = Rig(tmp_path, disk)
    rig.topic("other")
    rig.turn()
    start = rig.store.log.end
    rig.topic("t", queues=2)
    rig.turn()
    end = rig.store.log.end
    rig.store.apply(Cursors("g", "t", [(0, 0), (1, 0)]))
    rig.turn()
    rig.store.flusher.finish()
    rig.store.log.segments[0].write(start, bytes(end - start))
    rig.store.log.segments[0].sync()
    rig.crash()
    rig = Rig(_another(tmp_path), disk)
    assert len(rig.store.state.topics["t"].queues) == 2
    rig.crash()


def test_a_repetition_of_the_state_with_a_hole_is_none(tmp_path: Path) -> None:
    """Retention may not cut the log where part of what it repeats is lost."""
    rig = Rig(tmp_path, SimDisk())
    doubt = Doubt(rig.store.state, rig.store.log)
    doubt.begin(1000)
    assert [doubt.before(StateEnd(base)) for base in (500, 1000)] == [False, True]
    rig.crash()


def test_a_timer_that_came_due_is_nobody_s_delivery(tmp_path: Path) -> None:
    """Its message says what it stands for, as one that was carried forward does; no group had it before."""
    rig = Rig(tmp_path, SimDisk())
    rig.delay(1)
    doubt = Doubt(rig.store.state, rig.store.log)
    doubt.begin(rig.store.log.end)
    doubt.before_origin(Origin(0, TIMERS, 0, 0, ""), {})
    assert not rig.store.state.leases.subscriptions
    rig.crash()


def test_a_committed_message_is_nobody_s_delivery(tmp_path: Path) -> None:
    """As that of a timer."""
    rig = Rig(tmp_path, SimDisk())
    rig.begin(1)
    doubt = Doubt(rig.store.state, rig.store.log)
    doubt.begin(rig.store.log.end)
    doubt.before_origin(Origin(0, HALVES, 0, 0, ""), {})
    assert not rig.store.state.leases.subscriptions
    rig.crash()


@pytest.mark.parametrize("proof", ["extended", "carried forward"])
def test_what_is_known_of_a_delivery_only_from_later_is_no_new_message(tmp_path: Path, proof: str) -> None:
    """A lease that was changed, a message that was carried forward: it was delivered, and is not given out as new."""
    rig = Rig(tmp_path, SimDisk())
    rig.send("t")
    rig.send("t")
    rig.topic("%RETRY%g")
    state = rig.store.state
    doubt = Doubt(state, rig.store.log)
    doubt.begin(rig.store.log.end)
    extended, origin = Extended("g", "t", 0, 1, 7, 0, 1 << 50, 2), Origin(0, "t", 0, 1, "g", 2)
    if proof == "extended":
        assert doubt.before(extended)
        state.apply(extended)
    else:
        doubt.before_origin(origin, {})
        state.settle_origin(origin, "%RETRY%g", 0, 0, 0)
    ledger = state.leases.subscription("g", "t").ledger(0)
    assert (ledger.next, sorted({*ledger.open, *ledger.moved})) == (2, [0, 1])
    rig.crash()


def test_messages_of_a_message_group_are_in_line_again_behind_a_loss(tmp_path: Path) -> None:
    """What told of their lines is lost, or names the one that is leased only: all in doubt come in their turn."""
    rig = Rig(tmp_path, SimDisk())
    for _ in range(3):
        rig.send("t", properties=encode_properties({PROPERTY: "mg"}))
    rig.send("t")
    rig.turn()
    doubt, state, key = Doubt(rig.store.state, rig.store.log), rig.store.state, key_of("mg")
    doubt.begin(rig.store.log.end)
    for change in (Grouped("g", "t", [(0, [2], [key])]), Leased("g", "t", 7, 0, 1 << 50, "", [(0, 4, [1], [])])):
        assert doubt.before(change)
        state.apply(change)
    ledger = state.leases.subscription("g", "t").ledger(0)
    assert ledger.lines is not None
    assert [ledger.lines.at(key, place) for place in range(3)] == [0, 1, 2]
    assert ledger.key(3) is None
    assert {offset: found.lease is not None for offset, found in ledger.open.items()} == {
        0: False, 1: True, 2: False, 3: False,
    }  # fmt: skip
    assert state.leases.parked_count == ledger.lines.parked == 0
    state.leases.rearm(lambda lease: lease.due_ms)
    assert list(ledger.subscription.lines) == [(ledger, key)]
    assert [found.offset for found in ledger.subscription.ready] == [3]
    rig.crash()


@pytest.mark.parametrize("is_lite", [False, True])
def test_what_was_carried_forward_is_in_line_again_behind_a_loss(tmp_path: Path, is_lite: bool) -> None:
    """The entry that told of its line is lost; a dead letter is in none."""
    rig = Rig(tmp_path, SimDisk())
    rig.topic("t")
    rig.topic("%RETRY%g")
    doubt, state = Doubt(rig.store.state, rig.store.log), rig.store.state
    if is_lite:
        state.apply(LitePlaces("g", "t", []))
    state.apply(Cursors("g", "t", [(0, 3)]))
    doubt.begin(rig.store.log.end)
    properties = {LITE: "mg"} if is_lite else {PROPERTY: "mg"}
    for offset, attempt in ((0, 2), (1, 2), (2, 0)):
        origin = Origin(0, "t", 0, offset, "g", attempt)
        doubt.before_origin(origin, properties)
        state.settle_origin(origin, "%RETRY%g", 0, offset, 0)
    ledger, key = state.leases.subscription("g", "t").ledger(0), key_of("t", "mg") if is_lite else key_of("mg")
    assert ledger.lines is not None
    assert [ledger.lines.at(key, place) for place in range(ledger.lines.length(key))] == [0, 1]
    assert state.leases.parked_count == 0
    rig.crash()


def test_a_message_that_cannot_be_read_is_in_no_line(tmp_path: Path) -> None:
    """Nobody knows its message group any more; whoever receives it finds that it is lost."""
    rig = Rig(tmp_path, SimDisk())
    start = rig.store.log.end
    rig.send("t", properties=encode_properties({PROPERTY: "mg"}))
    rig.turn()
    rig.store.log.segments[0].write(start + 200, b"?")
    doubt = Doubt(rig.store.state, rig.store.log)
    doubt.begin(rig.store.log.end)
    assert doubt.before(Cursors("g", "t", [(0, 1)]))
    ledger = rig.store.state.leases.subscription("g", "t").ledger(0)
    assert (sorted(ledger.open), ledger.lines) == ([0], None)
    rig.crash()


def test_the_topic_of_a_transaction_is_there_though_the_record_that_made_it_is_lost(tmp_path: Path) -> None:
    """Or a check would give the transaction up."""
    disk = SimDisk()
    rig = Rig(tmp_path, disk)
    rig.begin(1)
    rig.turn()
    start = rig.store.log.end
    rig.topic("t")
    rig.turn()
    end = rig.store.log.end
    rig.begin(1)
    rig.turn()
    rig.store.flusher.finish()
    rig.store.log.segments[0].write(start, bytes(end - start))
    rig.store.log.segments[0].sync()
    rig.crash()
    rig = Rig(_another(tmp_path), disk)
    assert "t" in rig.store.state.topics
    assert list(rig.store.state.halves.firsts()) == [0, 1]
    rig.crash()


def test_a_place_that_somebody_set_is_in_no_doubt_behind_lost_bytes(tmp_path: Path) -> None:
    """A commit of one who pulls names no message: what it passed stays settled, what doubt had opened again, too."""
    rig = Rig(tmp_path, SimDisk())
    for _ in range(4):
        rig.send("t")
    rig.turn()
    doubt = Doubt(rig.store.state, rig.store.log)
    doubt.begin(rig.store.log.end)
    ledger = rig.store.state.leases.subscription("g", "t").ledger(0)
    for nexts, settles in (([(0, 2)], True), ([(0, 4)], False), ([(0, 1)], True)):
        change = Cursors("g", "t", nexts, settles)
        assert doubt.before(change)
        rig.store.state.apply(change)
        assert (sorted(ledger.open), ledger.committed()) == ([], nexts[0][1])
    doubt.begin(rig.store.log.end)
    for nexts, settles, committed in (([(0, 3)], False, 1), ([(0, 2)], True, 2)):
        change = Cursors("g", "t", nexts, settles)
        assert doubt.before(change)
        rig.store.state.apply(change)
        assert ledger.committed() == committed
    rig.crash()
