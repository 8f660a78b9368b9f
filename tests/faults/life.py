"""One store under a script of verbs while its disk fails, over restarts: what it has promised, and whether it holds.

refused     (disk full) nothing happened; the same call may succeed later
failed      (a write or a sync of the log) final: every later answer is an error, too
unknown     the answer did not come: may be there or not
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rmq_store.errors import StoreError, StoreFull
from rmq_store.flush import Mode
from rmq_store.journal import Acked, Extended, TimerEnded
from rmq_store.state import Origin
from rmq_store.timers import TOPIC as TIMERS
from tests.sim.disk import SimDisk
from tests.sim.faults import Fault
from tests.store.support import Rig

T = TypeVar("T")


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
        self.delayed: dict[int, int] = {}  # acknowledged: number of a timer -> due time
        self.fired: set[int] = set()  # and safe
        self.fires_tried: set[int] = set()
        self.recalled: set[int] = set()  # acknowledged
        self.recalls_tried: set[int] = set()
        self.outcomes: Counter[str] = Counter()
        self._number = 0

    # -- the script's words ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Refused, where it cannot be opened."""
        try:
            self.rig = Rig(self._root, self.disk, mode=self._mode)
        except StoreError:
            self.outcomes["did not start"] += 1

    def _body(self, size: int) -> bytes:
        """One that no other message has."""
        self._number += 1
        body = b"%d " % self._number + bytes(size)
        self.tried.add(body)
        return body

    def send(self, size: int = 20) -> None:
        """One message, to the next queue."""
        body = self._body(size)
        queue_id = self._number % 2

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

    def delay(self) -> None:
        """A timer."""
        self._number += 1
        due_ms = 1_800_000_000_000 + self._number

        def delay(rig: Rig) -> int:
            number = rig.delay(due_ms)
            rig.wait(rig.store.when_safe(None))
            return number

        number = self._do(delay)
        if number is not None:
            self.delayed[number] = due_ms

    def fire(self) -> None:
        """The first timer that waits."""
        for number in self._waiting()[:1]:
            self.fires_tried.add(number)
            body = self._body(20)

            def fire(rig: Rig, number: int = number, body: bytes = body) -> int:
                offset = rig.fire(number, self.delayed[number], "t", body)
                rig.wait(rig.store.when_safe(None))
                return offset

            offset = self._do(fire)
            if offset is not None:
                self.fired.add(number)
                self.sent[0, offset] = body

    def recall(self) -> None:
        """The first timer that waits."""
        for number in self._waiting()[:1]:
            self.recalls_tried.add(number)

            def recall(rig: Rig, number: int = number) -> bool:
                rig.store.apply(TimerEnded(number, self.delayed[number]))
                rig.wait(rig.store.when_safe(None))
                return True

            if self._do(recall):
                self.recalled.add(number)

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

    def _waiting(self) -> list[int]:
        timers = self.rig.store.state.timers if self.rig else None
        return [number for number, due_ms in self.delayed.items() if timers and timers.waits(number, due_ms)]

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
        self._check_timers(rig)
        rig.send("t", 0, b"after")
        rig.wait(rig.store.when_safe(None))
        assert rig.bodies("t", 0)[-1] == b"after"

    def _check_timers(self, rig: Rig) -> None:
        """Each waits or was delivered, once; a recalled one neither."""
        queue = rig.store.state.queue("t", 0)
        fired = Counter(_fired(rig)) if queue else Counter[int]()
        for number, due_ms in self.delayed.items():
            waits = rig.store.state.timers.waits(number, due_ms)
            assert waits + fired[number] <= 1, "a delayed message is delivered twice"
            assert not (waits and number in self.fired), "a delayed message will be delivered again"
            gone = number in self.fires_tried and queue is not None and queue.min_offset > 0
            if number in self.recalled:
                assert (waits, fired[number]) == (False, 0), "a recall is undone"
            elif number not in self.recalls_tried:
                assert waits or fired[number] or gone, "a delayed message is lost"

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


def _fired(rig: Rig) -> Iterator[int]:
    """The timers whose messages are in their queue."""
    queue = rig.store.state.topics["t"].queues[0]
    for offset in range(queue.min_offset, queue.max_offset):
        found = rig.store.read(queue, offset, queue.read(offset, 1)[0])
        origin = Origin.parse(found.decode_properties().get(Origin.PROPERTY, "")) if found else None
        if origin is not None and origin.topic == TIMERS:
            yield origin.offset
