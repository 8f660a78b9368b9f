"""Places in the server at which it can be made to kill itself: before, in or after a step whose crash story is told.

Nothing in the product knows of them: in the process that is to die (nest.py) a function is replaced by one that counts
how often it was passed and sends SIGKILL the k-th time. SIGKILL is taken at once, so nothing of the process runs after.
"""

import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from rmq_store.segment import Segment
from rmq_store.store import Store

Function = Callable[..., object]


@dataclass(frozen=True)
class Point:
    """`function` is module:qualified name. `often`: so many times it is passed in a fraction of a second of use."""

    name: str
    function: str
    after: bool
    often: int = 1
    counts: Callable[..., bool] = lambda *_: True
    starting: bool = False  # passed while the server starts, whatever clients do
    retaining: bool = False  # passed where retention is at work
    delaying: bool = False  # passed where messages are delayed
    grouping: bool = False  # passed where messages have a message group
    transacting: bool = False  # passed where transactions are begun and ended


def _has_changes(store: Store) -> bool:
    return bool(store._changes)


def _repeats_state(store: Store) -> bool:
    return store._state_left is not None


def _both(
    name: str,
    function: str,
    often: int = 1,
    *,
    starting: bool = False,
    retaining: bool = False,
    delaying: bool = False,
    transacting: bool = False,
) -> list[Point]:
    point = Point(
        name, function, False, often, starting=starting, retaining=retaining, delaying=delaying, transacting=transacting
    )
    return [replace(point, name=f"{moment} {name}", after=moment == "after") for moment in ("before", "after")]


JOB = "rmq_store.saver:Job.run"
JOINS = "rmq_store.leases:Leases.apply_grouped"
TORN = "in write"  # half of a turn's bytes are in the file
POINTS = {
    point.name: point
    for point in (
        *_both("append", "rmq_store.commitlog:CommitLog.append", 100),
        Point("before journal", "rmq_store.store:Store._write_journal", False, 50, _has_changes),
        Point("after journal", "rmq_store.journal:encode", True, 50),
        *_both("write", "rmq_store.segment:Segment.write", 50),
        Point(TORN, "rmq_store.segment:Segment.write", False, 50),
        *_both("fsync", "rmq_store.flush:_sync_all", 10),
        *_both("checkpoint", JOB, 3),
        *_both("checkpoint commit", "rmq_store.checkpoint:Checkpoint.commit", 3),
        *_both("new file", "rmq_store.disk:RealDisk._create", 2),
        Point("new file without its length", "os:ftruncate", False, 2),
        *_both("segment roll", "rmq_store.commitlog:CommitLog._roll", 2),
        Point("before state repetition", "rmq_store.store:Store._continue_state", False, 2, _repeats_state),
        *_both("carry-forward", "rmq_store.retention:Retention._move", 5, retaining=True),
        *_both(
            "carry-forward of a timer", "rmq_store.retention:Retention._move_timer", 2, retaining=True, delaying=True
        ),
        *_both(
            "carry-forward of a half message",
            "rmq_store.retention:Retention._move_half",
            2,
            retaining=True,
            transacting=True,
        ),
        *_both("segment drop", "rmq_store.store:Store.drop_segments", retaining=True),
        *_both("segment delete", "rmq_store.commitlog:CommitLog.delete", retaining=True),
        *_both("lease", "rmq.pop:Pop.lease", 20),
        Point("before line", JOINS, False, 20, grouping=True),
        Point("after line", JOINS, True, 20, grouping=True),
        *_both("dead letter", "rmq.burial:Burial.bury", 10),
        *_both("timer", "rmq.delay:Delay._fire", 10, delaying=True),
        *_both("recall", "rmq.delay:Delay.recall", 5, delaying=True),
        *_both("half message", "rmq.transaction:Transactions.send", 10, transacting=True),
        *_both("commit", "rmq.transaction:Transactions._commit", 10, transacting=True),
        *_both("end of a transaction", "rmq.transaction:Transactions._resolve", 10, transacting=True),
        *_both("lock", "rmq_store.store:_take", starting=True),
        *_both("replayed record", "rmq_store.recovery:replay", 3, starting=True),
        *_both("end of replay", "rmq_store.commitlog:CommitLog.set_end", starting=True),
        *_both("zeroing", "rmq_store.commitlog:CommitLog._zero", starting=True),
        *_both("start number", "rmq_store.store:Store._start", starting=True),
        Point("after recovery", "rmq.expiry:Expiry.rearm", True, starting=True),
    )
}


def arm(point: Point, kth: int) -> None:
    """From now on this process dies when it passes the point for the k-th time."""
    module, _, path = point.function.partition(":")
    *owners, name = path.split(".")
    owner: object = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, name, _deadly(getattr(owner, name), point, kth))


def _deadly(function: Function, point: Point, kth: int) -> Function:
    left = kth

    def passed(*arguments: object) -> bool:
        nonlocal left
        left -= point.counts(*arguments)
        return left <= 0

    def deadly(*arguments: object, **named: object) -> object:
        dies = passed(*arguments)
        if dies and point.name == TORN:
            _write_half(*arguments)  # type: ignore[arg-type]  # Segment.write's
        if dies and not point.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return deadly


def _write_half(segment: Segment, position: int, data: bytes) -> None:
    segment.file.write(position - segment.base, data[: len(data) // 2])
