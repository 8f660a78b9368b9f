"""Whichever call of the disk fails: what was acknowledged is there, and nothing is acknowledged that may be lost."""

import errno
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmq_store.errors import StoreError, StoreFull
from rmq_store.flush import Flusher, Mode
from rmq_store.journal import Acked
from tests.faults import nth, rot
from tests.sim.disk import SimDisk
from tests.sim.faults import REMOVE, RESERVE, SYNC, WRITE, Fault
from tests.store.support import Rig

EACH = 9  # of the cases: the campaign runs them all


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory, where there is such a file system."""
    with rot.folder() as folder:
        yield Path(folder)


@pytest.mark.crash
@pytest.mark.parametrize("mode", [Mode.DURABLE, Mode.FAST])
@pytest.mark.parametrize("script", nth.SCRIPTS)
def test_what_was_acknowledged_is_there_whichever_call_fails(place: Path, script: str, mode: Mode) -> None:
    """And after the restart all works."""
    counts: Counter[str] = Counter()
    for number, case in enumerate(itertools.islice(nth.cases(place / "counted", script, mode), 0, None, EACH)):
        counts += nth.run(place / str(number), case)
    assert counts["faults hit"] > counts["runs"] * 0.8 > 4  # the workers' calls do not come in the same order each time
    assert counts["failed"] > 0


def test_a_server_that_tries_a_failed_sync_again_is_found_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: the disk has dropped the pages, and the next sync succeeds."""
    monkeypatch.setattr(Flusher, "_fail_sync", lambda self, error: self._start_sync())
    case = nth.Case("sends", Fault(SYNC, 6), Mode.DURABLE)
    with pytest.raises(AssertionError, match="was acknowledged and is lost"):
        nth.run(place / "data", case)


def test_a_failed_sync_is_final(place: Path) -> None:
    """Whoever waits is told, nobody is answered afterwards, the reason is one line."""
    disk = SimDisk()
    rig = Rig(place / "data", disk, mode=Mode.DURABLE)
    rig.send("t")
    rig.wait(rig.store.when_safe(None))
    disk.faults.plan(Fault(SYNC, 1))
    rig.send("t")
    with pytest.raises(StoreError, match=r"fsync of the commit log failed .* is not safe; stopping"):
        rig.wait(rig.store.when_safe(None))
    disk.faults.disarm()
    for _ in range(3):
        with pytest.raises(StoreError, match="fsync of the commit log failed"):
            rig.wait(rig.store.when_safe(None))
    assert len(rig.failures) == 1
    rig.crash()


@pytest.mark.parametrize("half", [False, True])
def test_a_failed_write_of_the_log_is_final(place: Path, half: bool) -> None:
    """A short one, too; what was there before is there after a restart."""
    disk = SimDisk()
    rig = Rig(place / "data", disk, mode=Mode.DURABLE)
    rig.send("t", body=b"first")
    rig.wait(rig.store.when_safe(None))
    disk.faults.plan(Fault(WRITE, 1, errno.ENOSPC, half=half))
    rig.send("t", body=b"second" * 100)
    with pytest.raises(StoreError, match=r"cannot write the commit log at .* stopping"):
        rig.wait(rig.store.when_safe(None))
    assert len(rig.failures) == 1
    rig.crash()
    rig = Rig(place / "data", disk)
    assert rig.bodies("t") == [b"first"]
    rig.crash()


def test_sends_are_refused_on_a_full_disk_and_go_on_when_there_is_room(place: Path) -> None:
    """The text says what is full and which setting leaves how much; what the reserve is for goes on meanwhile."""
    disk = SimDisk()
    disk.faults.room_bytes = 200_000
    rig = Rig(place / "data", disk, mode=Mode.DURABLE, reserve_bytes=16_384, free_min_bytes=50_000)
    rig.send("t")
    rig.wait(rig.store.when_safe(None))
    rig.fill(3000)
    with pytest.raises(StoreFull, match=r"disk full: .*disk_free_min_bytes"):
        rig.send("t", body=bytes(20_000))
    for _ in range(5):
        for ledger in rig.take("g", "t", 1):
            rig.ack("g", "t", 0, *list(ledger.open))
        rig.wait(rig.store.when_safe(None))
    assert not rig.failures
    disk.faults.disarm()
    rig.send("t", body=bytes(20_000))
    rig.wait(rig.store.when_safe(None))
    rig.close()
    rig = Rig(place / "data", disk)
    assert [len(body or b"") for body in rig.bodies("t")] == [4, 20_000]
    rig.close()


def test_a_segment_that_cannot_be_deleted_keeps_those_behind_it(place: Path) -> None:
    """Else the log has a gap, and the next start is refused."""
    disk = SimDisk()
    rig = Rig(place / "data", disk)
    for _ in range(16):
        rig.send("t", body=bytes(20_000))
        rig.turn()
    disk.faults.plan(Fault(REMOVE, 1))
    rig.retain(bytes_max=70_000)
    for worker in (rig.store._syncer, rig.store._worker):
        worker.submit(int).result(10)
    assert disk.faults.hits == 1
    assert len(disk.list("commitlog")) == len(rig.store.log.segments)
    rig.crash()
    rig = Rig(place / "data", disk)
    assert rig.store.report.damaged == []
    rig.close()


def _acknowledge_for_ever(rig: Rig) -> None:
    for _ in range(200):
        rig.store.apply(Acked("g", "t", [(0, list(range(3000)))]))
        rig.wait(rig.store.when_safe(None))


def test_no_room_for_the_journal_is_final_not_forgotten(place: Path) -> None:
    """The reserve is used up: the state in memory knows more than the log, and nothing more is promised."""
    disk = SimDisk()
    rig = Rig(place / "data", disk, mode=Mode.DURABLE)
    rig.send("t")
    rig.wait(rig.store.when_safe(None))
    disk.faults.plan(Fault(RESERVE, 1, errno.ENOSPC, stays=True))
    with pytest.raises(StoreError, match="disk full"):
        _acknowledge_for_ever(rig)
    assert rig.failures
    rig.crash()
