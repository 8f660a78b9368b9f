"""Short scripts against a store whose Nth call of a kind fails, for every N: what was acknowledged is there afterwards.

refused     (disk full) nothing happened; the same call may succeed later
failed      (a write or a sync of the log) final: every later answer is an error, too
unknown     the answer did not come: may be there or not
"""

import contextlib
import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import lmdb

from rmq_store.checkpoint import Changed, Checkpoint, Meta
from rmq_store.errors import StoreError, StoreFull
from rmq_store.flush import Mode
from rmq_store.journal import Acked, Extended
from tests.faults.rot import logged
from tests.sim import faults as d
from tests.sim.disk import SimDisk
from tests.sim.faults import Fault, Faults
from tests.store.support import Rig

T = TypeVar("T")
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


class Life:
    """One store under a script, over restarts, and what it has promised."""

    def __init__(self, root: Path, fault: Fault | None, mode: Mode) -> None:
        self._root = root
        self._mode = mode
        self.disk = SimDisk()
        if fault:
            self.disk.faults.plan(fault)
        self.rig: Rig | None = None
        self.sent: dict[tuple[int, int], bytes] = {}  # acknowledged: queue, offset -> body
        self.tried: set[bytes] = set()
        self.settled: set[tuple[int, int]] = set()  # acknowledged acks
        self.acks_tried: set[tuple[int, int]] = set()
        self.outcomes: Counter[str] = Counter()
        self._number = 0

    # -- the script's words ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Refused, where it cannot be opened."""
        try:
            self.rig = Rig(self._root, self.disk, mode=self._mode)
        except StoreError:
            self.outcomes["did not start"] += 1

    def send(self, size: int = 20) -> None:
        """One message, to the next queue."""
        self._number += 1
        queue_id = self._number % 2
        body = b"%d " % self._number + bytes(size)
        self.tried.add(body)

        def send(rig: Rig) -> int:
            offset = rig.send("t", queue_id, body)
            rig.wait(rig.store.when_safe(None))
            return offset

        offset = self._do(send)
        if offset is not None:
            self.sent[queue_id, offset] = body

    def receive(self) -> None:
        """Up to two of each queue are leased."""

        def take(rig: Rig) -> None:
            if "t" in rig.store.state.topics:
                rig.take("g", "t", 2)

        self._do(take)

    def ack(self) -> None:
        """All that is leased is done."""
        for queue_id, offset in self._leased():
            self.acks_tried.add((queue_id, offset))

            def ack(rig: Rig, queue_id: int = queue_id, offset: int = offset) -> bool:
                rig.store.apply(Acked("g", "t", [(queue_id, [offset])]))
                rig.wait(rig.store.when_safe(None))
                return True

            if self._do(ack):
                self.settled.add((queue_id, offset))

    def change(self) -> None:
        """The lease of one message ends at another time."""
        for queue_id, offset in self._leased()[:1]:

            def change(rig: Rig, queue_id: int = queue_id, offset: int = offset) -> bool:
                sequence = rig.store.next_sequence()
                rig.store.apply(Extended("g", "t", queue_id, offset, sequence, rig.now_ms, 1 << 49, 1))
                rig.wait(rig.store.when_safe(None))
                return True

            self._do(change)

    def save(self) -> None:
        """A checkpoint, if it comes to that."""
        self._do(lambda rig: rig.save())

    def retain(self) -> None:
        """Old segments go."""
        self._do(lambda rig: rig.retain(bytes_max=100_000))

    def restart(self) -> None:
        """An orderly stop, and a start."""
        self.stop(orderly=True)
        self.start()

    def stop(self, *, orderly: bool) -> None:
        """Or a crash: a store that has failed can do no better."""
        rig, self.rig = self.rig, None
        if rig is not None:
            with contextlib.suppress(StoreError):
                rig.close() if orderly else rig.crash()

    # -- what becomes of it ------------------------------------------------------------------------------------------

    def _leased(self) -> list[tuple[int, int]]:
        subscription = self.rig.store.state.leases.subscriptions.get(("g", "t")) if self.rig else None
        ledgers = subscription.ledgers.values() if subscription else ()
        return [(ledger.queue_id, offset) for ledger in ledgers for offset in ledger.open]

    def _do(self, action: Callable[[Rig], T]) -> T | None:
        rig = self.rig
        if rig is None:
            return None
        has_failed = bool(rig.failures)
        try:
            result = action(rig)
            rig.turn()
        except StoreFull:
            self.outcomes["refused"] += 1
            return None
        except StoreError:
            rig.turn()
            assert rig.failures, "an answer failed, and the server was not told to stop"
            self.outcomes["failed"] += 1
            return None
        assert not (has_failed and result is not None), "acknowledged after a failure"
        return result

    def check(self) -> None:
        """After a restart on a disk that works: all that was promised, nothing that was not sent.

        Profile durable promises it for the worst power cut, too.
        """
        self.stop(orderly=False)
        self.disk.faults.disarm()
        disk = self.disk.only_synced() if self._mode is Mode.DURABLE else self.disk
        rig = Rig(self._root, disk, mode=self._mode)
        try:
            self._check(rig)
        finally:
            rig.close()

    def _check(self, rig: Rig) -> None:
        topic = rig.store.state.topics.get("t")
        found: dict[tuple[int, int], bytes] = {}
        for queue in topic.queues if topic else ():
            bodies = rig.bodies("t", queue.queue_id)
            found |= {(queue.queue_id, queue.min_offset + n): body for n, body in enumerate(bodies) if body is not None}
        subscription = rig.store.state.leases.subscriptions.get(("g", "t"))
        for place, body in self.sent.items():
            if place in found:
                assert found[place] == body, f"{place} is another message"
            else:
                assert self._is_settled(rig, place), f"{place} was acknowledged and is lost"
        assert set(found.values()) <= self.tried, "never sent"
        for queue_id, offset in self.settled:
            ledger = subscription.ledgers[queue_id] if subscription else None
            assert ledger is not None, "all acks are undone"
            assert ledger.find(offset) is None, "an ack is undone"
            assert offset < ledger.next, "an ack is undone"
        rig.send("t", 0, b"after")
        rig.wait(rig.store.when_safe(None))
        assert rig.bodies("t", 0)[-1] == b"after"

    def _is_settled(self, rig: Rig, place: tuple[int, int]) -> bool:
        """Retention has taken it: it was settled, or it was carried forward under its old name."""
        if place in self.acks_tried:
            return True
        subscription = rig.store.state.leases.subscriptions.get(("g", "t"))
        ledger = subscription.ledgers.get(place[0]) if subscription else None
        queue = rig.store.state.queue("t", place[0])
        taken = queue is not None and place[1] < queue.min_offset
        never_leased = ledger is None or place[1] >= ledger.next
        return taken and (never_leased or (ledger is not None and ledger.find(place[1]) is not None))


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


SCRIPTS: dict[str, Script] = {one.__name__: one for one in (sends, consume, roll, checkpoints, retention, restarts)}


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
