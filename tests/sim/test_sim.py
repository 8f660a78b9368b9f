"""The simulation itself: what its disk may lose, what its loop and workers do, and that it finds what is planted."""

import asyncio
import random
from unittest import mock

import pytest

from rmq.order import Order
from rmq_store.commitlog import CommitLog
from rmq_store.doubt import Doubt
from rmq_store.journal import LitePlaces
from rmq_store.leases import Leases
from rmq_store.lites import Lites
from rmq_store.segment import Segment
from rmq_store.timers import Timers
from tests.sim.disk import SECTOR_BYTES, SimDisk
from tests.sim.images import play
from tests.sim.lines import Lined, LinedImage
from tests.sim.loop import SimLoop, SimWorker

CUTS = 200
PLANTED_SEEDS = range(6, 16)  # one of them shows each plant, whatever else the workloads learn
HEAD = Timers.head
PLACES = Lites.apply_places


def contents(disk: SimDisk, path: str) -> set[bytes | None]:
    """What may be found in a file after a power cut, None: it is not there."""
    found: set[bytes | None] = set()
    for seed in range(CUTS):
        after = disk.after_power_cut(random.Random(seed))
        size = after.size(path)
        found.add(None if size is None else after.open(path, 0).read(0, 4 * SECTOR_BYTES).rstrip(b"\0"))
    return found


def test_what_was_synced_is_there_after_any_power_cut() -> None:
    """And so is the file."""
    disk = SimDisk()
    file = disk.open("a/b/f", 4096)
    file.write(0, b"safe")
    file.sync()
    assert contents(disk, "a/b/f") == {b"safe"}


def test_of_unsynced_writes_any_part_may_be_there_in_sectors() -> None:
    """Two sectors: none, one, the other, both."""
    disk = SimDisk()
    file = disk.open("f", 4096)
    file.write(SECTOR_BYTES - 2, b"1122")
    first, second = bytes(SECTOR_BYTES - 2) + b"11", bytes(SECTOR_BYTES) + b"22"
    assert contents(disk, "f") == {b"", first, second, bytes(SECTOR_BYTES - 2) + b"1122"}


def test_a_file_whose_folder_was_not_synced_may_be_missing() -> None:
    """A crash fell into its making; one that was removed may be back."""
    disk = SimDisk()
    steps: list[SimDisk] = []
    disk.on_event = lambda operation, path: steps.append(disk.frozen())
    disk.open("a/f", 4096)
    assert {None, b""} <= set().union(*(contents(step, "a/f") for step in steps))
    disk.on_event = lambda operation, path: None
    disk.open("a/g", 4096)
    disk.remove("a/f")
    assert contents(disk, "a/f") == {None, b""}
    disk.sync_folder("a")
    assert contents(disk, "a/f") == {None}


def test_a_failed_sync_leaves_bytes_that_no_later_one_writes() -> None:
    """As Linux does: they are read until the machine stops, and then they are gone."""
    disk = SimDisk()
    file = disk.open("f", 4096)
    file.write(0, b"lost")
    disk.faults.arm("sync", "f", 1)
    with pytest.raises(OSError, match="Input/output error"):
        file.sync()
    file.sync()
    assert file.read(0, 4) == b"lost"
    assert contents(disk, "f") == {b""}


def test_a_frozen_disk_does_not_see_what_comes_later() -> None:
    """Neither writes nor files nor syncs."""
    disk = SimDisk()
    file = disk.open("f", 4096)
    file.write(0, b"now")
    frozen = disk.frozen()
    file.write(0, b"new")
    file.sync()
    disk.open("g", 4096)
    assert (frozen.open("f", 0).read(0, 3), frozen.list("")) == (b"now", ["f"])
    assert contents(frozen, "f") == {b"now", b""}


def test_a_worker_does_its_jobs_in_order_and_at_once_for_who_waits() -> None:
    """Nobody waits for a thread."""
    loop = SimLoop()
    done: list[int] = []
    worker = SimWorker(loop, random.Random(0))
    worker.submit(done.append, 1)
    second = worker.submit(done.append, 2)
    worker.submit(done.append, 3)
    assert (second.exception(), done) == (None, [1, 2])
    loop.run_until(lambda: len(done) == 3, 1.0)
    loop.close()


def test_time_passes_only_while_someone_waits() -> None:
    """A timer fires when it is waited for."""
    loop = SimLoop()
    future: asyncio.Future[None] = loop.create_future()
    loop.call_later(0.5, future.set_result, None)
    loop.run_ready(10)
    assert not future.done()
    loop.run_until(future.done, 1.0)
    assert loop.time() >= 0.5
    loop.close()


def play_all() -> None:
    """Images of several workloads."""
    for seed in PLANTED_SEEDS:
        play(seed, "durable", images=40)


@pytest.mark.crash
@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [
        (Segment, "sync", lambda segment: None),
        (CommitLog, "scan", lambda log, position: iter(())),
        (Leases, "apply_acked", lambda leases, change: None),
        (Doubt, "begin", lambda doubt, end: None),
        (Timers, "put", lambda timers, number, due_ms, first: None),
        (Timers, "ended", lambda timers, first, due_ms: None),
        (Timers, "head", lambda timers, now_ms, limit: HEAD(timers, now_ms + 300_000, limit)),
    ],
    ids=[
        "sync nothing",
        "read nothing",
        "forget acks",
        "trust what is left",
        "forget timers",
        "forget recalls",
        "fire early",
    ],
)
def test_images_find_what_is_planted(owner: type, name: str, instead: object) -> None:
    """A check that cannot fail is worth nothing: each of these breaks a promise, and is found."""
    with mock.patch.object(owner, name, instead), pytest.raises(AssertionError, match=r"images\.play"):
        play_all()


def play_lines() -> None:
    """The same with message groups and lite topics."""
    for seed in (27, *PLANTED_SEEDS):
        play(seed, "durable", images=30, workload=Lined, image_of=LinedImage)


def forget_places(lites: Lites, change: LitePlaces) -> None:
    """The group is known, and not where it is."""
    PLACES(lites, LitePlaces(change.group, change.topic, []))


@pytest.mark.crash
@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [
        (Leases, "apply_grouped", lambda leases, change: None),
        (Lites, "apply_subscribed", lambda lites, change: None),
        (Lites, "apply_places", forget_places),
        (Order, "_is_cut", lambda order, ledger, offset: False),
    ],
    ids=["forget lines", "forget subscriptions", "forget lite places", "deliver what is about to go"],
)
def test_images_find_what_is_planted_in_lines(owner: type, name: str, instead: object) -> None:
    """As above, of message groups and lite topics."""
    with mock.patch.object(owner, name, instead), pytest.raises(AssertionError, match=r"images\.play"):
        play_lines()
