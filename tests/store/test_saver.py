"""The checkpoint: a copy for a fast start, equal to the state or absent, whatever happens while it is written."""

import shutil
import tempfile
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from rmq_store import snapshot
from rmq_store.checkpoint import FORMAT, Changed, Checkpoint, Kept, Meta, read
from rmq_store.consumequeue import FILE_BYTES, FILLER_SIZE
from rmq_store.disk import RealDisk
from rmq_store.journal import Cursors, GroupDrop, Leased, TopicDrop, TopicPut
from rmq_store.ledger import Lease, Open
from rmq_store.saver import Saver
from rmq_store.state import State
from tests.store.support import GROUP, SEGMENT_BYTES, Rig, WatchedDisk, draft, view
from tests.store.test_recovery import OPS, Op, run


def _saver(rig: Rig) -> Saver:
    assert rig.store._saver is not None
    return rig.store._saver


def _replayed(root: Path, expected: dict[str, object]) -> int:
    """Opens the store, which must hold `expected`; how many records it had to read."""
    rig = Rig(root)
    assert view(rig.store.state) == expected
    records = rig.store.report.records
    rig.close()
    return records


def committed(pairs: Iterable[Changed]) -> Kept:
    """As a start finds them."""
    with tempfile.TemporaryDirectory() as folder:
        with closing(Checkpoint(Path(folder))) as made:
            made.commit(Meta(FORMAT, 0, 0, 0, 1, 1, [], 0), pairs, everything=True)
        kept = read(Path(folder))
    assert kept is not None
    return kept


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPS)
def test_a_state_restored_from_its_pairs_is_that_state(ops: list[Op]) -> None:
    """Carried messages, their names and their leases included."""
    rig = Rig(None)
    run(rig, ops)
    timers = rig.store.state.timers
    told = dict(snapshot.timer_pairs(timers.changes, timers.fired_ms))
    told |= dict(snapshot.half_pairs(rig.store.state.halves))
    told |= dict(snapshot.changed(rig.store.state, everything=True))
    queues = [queue for topic in rig.store.state.topics.values() for queue in topic.queues]
    for queue in queues:
        for path, offset, data in queue.unwritten():
            rig.store.disk.open(path, FILE_BYTES).write(offset, data)
    restored = State(rig.store.files)
    snapshot.restore(restored, committed(told.items()))
    assert view(restored, rig.now_ms) == view(rig.store.state, rig.now_ms)
    assert [restored.dirty_topics, restored.dirty_groups, restored.dirty_queues, restored.leases.dirty] == [
        set(), set(), {}, {}
    ]  # fmt: skip
    rig.close()


def test_a_lease_of_many_messages_is_restored_message_by_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes to it once: the work does not grow with what the lease holds already."""
    rig = Rig(None)
    rig.store.append_all(rig.topic("t").queues[0], [(draft("t", 0), 0)] * 2000)
    rig.turn()
    rig.take("g", "t", 2000)
    pairs = dict(snapshot.changed(rig.store.state, everything=True))
    sizes: list[int] = []

    def give(lease: Lease, held: tuple[Open, ...]) -> None:
        sizes.append(len(held))
        lease._held = held

    monkeypatch.setattr(Lease, "held", vars(Lease)["held"].setter(give))
    restored = State(rig.store.files)
    snapshot.restore(restored, committed(pairs.items()))
    assert sum(sizes) == 2000
    (lease,) = restored.leases.leases.values()
    assert [found.offset for found in lease.held] == list(range(2000))
    rig.close()


def test_after_an_orderly_stop_nothing_is_replayed(tmp_path: Path) -> None:
    """The last checkpoint covers the whole log."""
    rig = Rig(tmp_path)
    for n in range(50):
        rig.send("t", n % 3)
        rig.turn()
    rig.take("g", "t", 10)
    rig.store.apply(GROUP)
    expected = view(rig.store.state)
    rig.close()
    assert _replayed(tmp_path, expected) == 0


def test_a_checkpoint_comes_after_the_interval_and_after_enough_records(tmp_path: Path) -> None:
    """Whichever is first; and again after it for what came meanwhile."""
    rig = Rig(tmp_path, checkpoint_interval_ms=10)
    rig.send("t")
    rig.until(lambda: not rig.store.state.dirty_queues and _saver(rig)._running is None)
    rig.crash()
    rig = Rig(tmp_path, checkpoint_records=10)
    assert rig.store.report.records == 0
    for _ in range(10):
        rig.send("t")
    rig.until(lambda: not rig.store.state.dirty_queues and _saver(rig)._running is None)
    rig.crash()
    rig = Rig(tmp_path)
    assert rig.store.report.records < 5
    rig.crash()


def test_what_changes_while_a_checkpoint_is_written_is_in_the_next(tmp_path: Path) -> None:
    """Queue tails, cursors, leases, topics: the worker sees none of it."""
    disk = _SlowDisk(tmp_path)
    rig = Rig(tmp_path, disk)
    rig.topic("t", 2)
    rig.send("t", 0)
    rig.turn()
    disk.wait_for.clear()
    _saver(rig).save()
    for n in range(10):
        rig.send("t", n % 2)
    rig.turn()
    rig.take("g", "t", 3)
    rig.store.apply(TopicPut("new", 1, 1))
    rig.turn()
    _saver(rig).save()
    disk.wait_for.set()
    rig.until(lambda: _saver(rig)._running is None)
    middle = view(rig.store.state)
    rig.crash()
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert _replayed(tmp_path / "copy", middle) > 0
    rig = Rig(tmp_path)
    assert view(rig.store.state) == middle
    rig.save()
    rig.crash()
    assert _replayed(tmp_path, middle) == 0


class _SlowDisk(WatchedDisk):
    """Syncs of queue files wait for `wait_for`."""

    def __init__(self, root: Path) -> None:
        super().__init__(RealDisk(root))
        self.wait_for = threading.Event()
        self.wait_for.set()

    def check(self, operation: str, path: str, size: int = 0) -> None:
        if operation == "sync" and path.startswith("consumequeue"):
            assert self.wait_for.wait(10)
        super().check(operation, path, size)


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_checkpoint_that_fails_costs_nothing_but_time(tmp_path: Path, operation: str) -> None:
    """A full disk under a queue file: the store goes on, a crash replays, the next checkpoint has all of it."""
    disk = WatchedDisk(RealDisk(tmp_path))
    rig = Rig(tmp_path, disk)
    rig.send("t", 0)
    rig.send("gone", 0)
    rig.store.apply(GROUP)
    rig.turn()
    disk.broken.add((operation, "consumequeue"))
    _saver(rig).save()
    rig.store.apply(TopicDrop("gone"))
    rig.until(lambda: _saver(rig)._running is None)
    rig.send("t", 1)
    rig.take("g", "t", 5)
    rig.turn()
    rig.save()
    expected = view(rig.store.state)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert _replayed(tmp_path / "copy", expected) > 5
    disk.broken.clear()
    rig.save()
    rig.crash()
    assert _replayed(tmp_path, expected) == 0
    assert RealDisk(tmp_path).list("consumequeue") == ["t"]


def test_a_checkpoint_is_committed_after_the_log_and_the_queue_files_are_synced(tmp_path: Path) -> None:
    """Else a power cut would leave a copy of what is not there."""
    disk = WatchedDisk(RealDisk(tmp_path))
    rig = Rig(tmp_path, disk)
    for _ in range(3):
        rig.send("t", body=bytes(40_000))
    rig.turn()
    disk.calls.clear()
    rig.save()
    synced = [path for operation, path in disk.calls if operation == "sync"]
    logs = [f"commitlog/{n * SEGMENT_BYTES:020d}" for n in range(3)]
    assert synced == [*logs, f"consumequeue/t/0/{0:020d}"]
    disk.broken.add(("sync", "commitlog"))
    rig.send("t")
    rig.save()
    rig.crash()
    assert Rig(tmp_path).store.report.records > 0


def test_the_last_checkpoint_takes_what_a_failed_one_left(tmp_path: Path) -> None:
    """It failed just before the stop, and nobody was told yet."""
    disk = WatchedDisk(RealDisk(tmp_path))
    rig = Rig(tmp_path, disk)
    rig.send("t")
    rig.store.apply(GROUP)
    rig.turn()
    disk.broken.add(("sync", "consumequeue"))
    _saver(rig).save()
    running = _saver(rig)._running
    assert running is not None
    assert running[1].exception(10) is not None
    disk.broken.clear()
    expected = view(rig.store.state)
    rig.close()
    assert _replayed(tmp_path, expected) == 0


def test_a_full_disk_at_the_stop_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """The next start reads more of the log, no more than that."""
    disk = WatchedDisk(RealDisk(tmp_path))
    rig = Rig(tmp_path, disk)
    rig.send("t")
    rig.turn()
    disk.broken.add(("write", "consumequeue"))
    expected = view(rig.store.state)
    rig.close()
    assert _replayed(tmp_path, expected) > 0


@pytest.mark.parametrize("saved_between", [False, True])
def test_a_topic_dropped_and_made_again_has_nothing_of_the_first(tmp_path: Path, saved_between: bool) -> None:
    """In one turn, on disk as in memory, with a checkpoint that still writes the first one's files."""
    disk = _SlowDisk(tmp_path)
    rig = Rig(tmp_path, disk)
    for _ in range(5):
        rig.send("t", 2)
    rig.turn()
    rig.take("g", "t", 5)
    rig.turn()
    if saved_between:
        rig.save()
        rig.send("t", 2)
        rig.turn()
    disk.wait_for.clear()
    _saver(rig).save()
    rig.send("t", 0, b"before")
    rig.store.apply(TopicDrop("t"))
    rig.send("t", 0, b"after")
    rig.take("g", "t", 5)
    rig.turn()
    disk.wait_for.set()
    rig.until(lambda: _saver(rig)._running is None)
    assert rig.bodies("t") == [b"after"]
    expected = view(rig.store.state)
    shutil.copytree(tmp_path, tmp_path / "copy")
    _replayed(tmp_path / "copy", expected)
    rig.send("t", 0, b"more")
    rig.close()
    rig = Rig(tmp_path)
    assert rig.bodies("t") == [b"after", b"more"]
    assert RealDisk(tmp_path).list("consumequeue/t") == ["0"]
    rig.close()


def test_a_dropped_group_is_gone_from_the_checkpoint(tmp_path: Path) -> None:
    """With its places."""
    rig = Rig(tmp_path)
    rig.send("t")
    rig.turn()
    rig.store.apply(GROUP)
    rig.take("g", "t", 1)
    rig.take("h", "t", 1)
    rig.save()
    rig.store.apply(GroupDrop("g"))
    expected = view(rig.store.state)
    rig.close()
    assert _replayed(tmp_path, expected) == 0


def test_more_queues_than_a_checkpoint_likes_are_all_saved_and_the_next_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a part of them."""
    monkeypatch.setattr("rmq_store.saver._SLOW_FILES", 16)
    rig = Rig(tmp_path)
    for queue_id in range(40):
        rig.topic("t", 40)
        rig.store.append(rig.topic("t"), rig.topic("t").queues[queue_id], draft("t", queue_id), 0)
    rig.turn()
    delays: list[int] = []
    monkeypatch.setattr(_saver(rig), "_save_later", delays.append)
    _saver(rig).save()
    rig.send("t")
    rig.until(lambda: _saver(rig)._running is None)
    assert 2 in delays
    expected = view(rig.store.state)
    rig.crash()
    assert _replayed(tmp_path, expected) < 5


def test_a_checkpoint_beyond_the_end_of_the_log_is_discarded(tmp_path: Path) -> None:
    """The log was lost, or cut back: it is the truth."""
    rig = Rig(tmp_path)
    for n in range(10):
        rig.send("t", 0, b"%d" % n)
        rig.turn()
    middle = rig.store.log.written
    rig.send("t", 0, b"lost")
    rig.close()
    segment = tmp_path / "commitlog" / f"{0:020d}"
    data = segment.read_bytes()
    segment.write_bytes(data[:middle] + bytes(len(data) - middle))
    rig = Rig(tmp_path)
    assert rig.bodies("t") == [b"%d" % n for n in range(10)]
    rig.close()


def test_a_checkpoint_that_cannot_be_read_is_discarded(tmp_path: Path) -> None:
    """Garbage in its file, another format, a value of another shape."""
    rig = Rig(tmp_path)
    rig.send("t")
    rig.take("g", "t", 1)
    rig.turn()
    expected = view(rig.store.state)
    rig.close()
    folder = tmp_path / "rmq" / "checkpoint"
    (folder / "data.mdb").write_bytes(b"\xde\xad" * 8192)
    assert _replayed(tmp_path, expected) > 0
    for meta in (Meta(99, 0, 0, 0, 1, 1, [], 0), b"nonsense"):
        checkpoint = Checkpoint(folder)
        with checkpoint._env.begin(write=True) as txn:
            txn.put(b"m", meta if isinstance(meta, bytes) else msgspec.msgpack.encode(meta))
            txn.put(b"tstale", msgspec.msgpack.encode([1, [[0, 0]]]))
        checkpoint.close()
        assert _replayed(tmp_path, expected) > 0
        assert _replayed(tmp_path, expected) == 0


def test_an_offset_whose_message_is_lost_stays_a_hole(tmp_path: Path) -> None:
    """The state at a segment's start tells how far the queue went; a checkpoint keeps the filler."""
    rig = Rig(tmp_path)
    rig.send("t")
    rig.send("t")
    rig.save()
    rig.send("t")
    rig.turn()
    lost = rig.store.state.topics["t"].queues[0].read(2, 1)[0]
    rig.roll()
    rig.store.log.segments[0].write(lost.position, bytes(lost.size))
    rig.crash()
    for _ in range(2):
        rig = Rig(tmp_path)
        entries = [rig.store.state.topics["t"].queues[0].read(offset, 1)[0] for offset in range(3)]
        assert [entry.size == FILLER_SIZE for entry in entries] == [False, False, True]
        rig.close()
    rig = Rig(tmp_path)
    assert rig.send("t") == 3
    rig.close()


def test_a_cursor_that_only_skipped_messages_is_saved(tmp_path: Path) -> None:
    """What a filter passed over must not come back after a start."""
    rig = Rig(tmp_path)
    for queue_id in (0, 0, 1):
        rig.send("t", queue_id)
    rig.turn()
    rig.store.apply(Cursors("g", "t", [(0, 0), (1, 0)]))
    rig.save()
    rig.store.apply(Leased("g", "t", rig.store.next_sequence(), 1, 1 << 50, "", [(0, 2, [], []), (1, 1, [0], [])]))
    rig.save()
    expected = view(rig.store.state)
    rig.crash()
    assert _replayed(tmp_path, expected) == 0


def test_a_store_in_memory_forgets_what_changed() -> None:
    """There is no checkpoint that would need it."""
    rig = Rig(None)
    for n in range(3000):
        rig.store.apply(Cursors("g", f"t{n}", [(0, 1)]))
    assert len(rig.store.state.leases.dirty) <= 1001
    rig.close()
