"""Short scripts against a store whose Nth call of a kind fails, for every N; what has to hold then: life.py."""

import contextlib
import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb

from rmq_store.checkpoint import Changed, Checkpoint, Meta
from rmq_store.flush import Mode
from tests.faults.life import Life
from tests.faults.rot import logged
from tests.sim import faults as d
from tests.sim.faults import Fault, Faults

COMMIT = "commit"  # of the checkpoint: LMDB does its own file work
FAULTS = (
    (d.WRITE, errno.ENOSPC, False),
    (d.WRITE, errno.EIO, False),
    (d.WRITE, errno.ENOSPC, True),
    (d.SYNC, errno.EIO, False),
    (d.SYNC, errno.ENOSPC, False),
    (d.RESERVE, errno.ENOSPC, False),
    (d.OPEN, errno.EMFILE, False),
    (d.OPEN, errno.ENOSPC, False),
    (d.REMOVE, errno.EIO, False),
    (d.FOLDER_SYNC, errno.EIO, False),
    (COMMIT, errno.ENOSPC, False),
    (COMMIT, errno.EIO, False),
)
"""Kind of call, error, and whether half of a write gets in."""

Script = Callable[[Life], None]


def sends(life: Life) -> None:
    """A few, and one more after a pause."""
    life.start()
    for _ in range(5):
        life.send()


def consume(life: Life) -> None:
    """Send, receive, acknowledge, change invisible duration."""
    life.start()
    for _ in range(4):
        life.send()
    life.receive()
    life.change()
    life.ack()
    life.send()


def roll(life: Life) -> None:
    """Over the end of two segments."""
    life.start()
    for _ in range(7):
        life.send(20_000)
    life.receive()
    life.ack()


def checkpoints(life: Life) -> None:
    """Two, with something between."""
    life.start()
    life.send()
    life.save()
    life.receive()
    life.send()
    life.save()
    life.ack()


def retention(life: Life) -> None:
    """The first segment goes, a leased message moves."""
    life.start()
    life.send()
    life.send()
    life.receive()
    for _ in range(8):
        life.send(20_000)
    life.retain()
    life.ack()
    life.send()


def restarts(life: Life) -> None:
    """Orderly ones."""
    life.start()
    life.send()
    life.receive()
    life.restart()
    life.send()
    life.ack()
    life.restart()
    life.send()


def delays(life: Life) -> None:
    """Timers fire, are recalled, and wait, over a restart and a checkpoint."""
    life.start()
    for _ in range(3):
        life.delay()
    life.fire()
    life.save()
    life.recall()
    life.delay()
    life.restart()
    life.fire()
    life.receive()
    life.delay()
    life.recall()


def carried(life: Life) -> None:
    """Timers outlive their segment, fire and are recalled by their first numbers."""
    life.start()
    for _ in range(3):
        life.delay()
    for _ in range(8):
        life.send(20_000)
    life.retain()
    life.fire()
    life.recall()
    life.restart()


SCRIPTS: dict[str, Script] = {
    one.__name__: one for one in (sends, consume, roll, checkpoints, retention, restarts, delays, carried)
}


class Case(NamedTuple):
    """One run of a script."""

    script: str
    fault: Fault
    mode: Mode


@contextlib.contextmanager
def failing_commits(faults: Faults) -> Iterator[None]:
    """LMDB's commits are counted as calls of the disk, too."""
    commit = Checkpoint.commit

    def counted(self: Checkpoint, meta: Meta, pairs: Iterable[Changed], *, everything: bool) -> None:
        try:
            faults.check(COMMIT, "")
        except OSError as error:
            full = error.errno == errno.ENOSPC
            raise (lmdb.MapFullError if full else lmdb.DiskError)(str(error)) from None
        commit(self, meta, pairs, everything=everything)

    Checkpoint.commit = counted  # type: ignore[method-assign]  # for the time of one run
    try:
        yield
    finally:
        Checkpoint.commit = commit  # type: ignore[method-assign]  # as it was


def run(root: Path, case: Case) -> Counter[str]:
    """Raises AssertionError where a promise is broken; returns what the calls of the script came to."""
    life = Life(root, case.fault, case.mode)
    with failing_commits(life.disk.faults), logged():
        SCRIPTS[case.script](life)
    with logged():
        life.check()
    life.outcomes["runs"] += 1
    life.outcomes["faults hit"] += life.disk.faults.hits > 0
    return life.outcomes


def cases(root: Path, script: str, mode: Mode) -> Iterator[Case]:
    """Every call of every kind, failing once, and from then on."""
    life = Life(root, None, mode)
    with failing_commits(life.disk.faults):
        SCRIPTS[script](life)
    life.stop(orderly=False)
    for kind, number_of_error, half in FAULTS:
        for number in range(1, life.disk.faults.calls[kind] + 1):
            for stays in (False, True):
                yield Case(script, Fault(kind, number, number_of_error, half, stays=stays), mode)
