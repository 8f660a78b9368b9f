"""Tables of who has which message: per (group, topic, queue) a cursor and the open messages behind it.

    queue offsets    0 1 2 3 4 5 6 7 8 9 ...
                     ^ settled   ^   ^ ^ next: everything from here on was never delivered
                     |           open: leased, or ready to be delivered again
    An offset below `next` that is not open is settled (acked, dead-lettered, filtered out, or gone), or parked: it
    waits for others of its message group (lines.py).

Their transitions are in leases.py.
"""

from collections import deque

from rmq_store.bands import Bands
from rmq_store.lines import Lines


class Lease:
    """What one receive took, or what one change of invisible duration left: due together."""

    __slots__ = ("_held", "asked", "client", "due_ms", "key", "live", "sequence", "taken_ms")

    def __init__(self, key: int, sequence: int, taken_ms: int, due_ms: int, client: str, asked: int) -> None:
        self.key = key  # in Leases.leases and in the wheel: the sequence, while no other lease has it
        self.sequence = sequence  # of the receipt handles; lasts
        self.taken_ms = taken_ms
        self.due_ms = due_ms
        self.client = client  # the server renews the lease while this client lives; "" : it does not
        self.asked = asked  # as in the journal
        self._held: Open | tuple[Open, ...] = ()  # most leases hold one message: no tuple for it
        self.live = 0  # how many of `held` are still held by this lease

    @property
    def held(self) -> "tuple[Open, ...]":
        """What it took; some may be settled, or with another lease, by now."""
        return self._held if isinstance(self._held, tuple) else (self._held,)

    @held.setter
    def held(self, held: "tuple[Open, ...]") -> None:
        self._held = held[0] if len(held) == 1 else held


class Open:
    """One open message. `lease` None: ready to be delivered again. `attempt`: deliveries so far that count."""

    __slots__ = ("attempt", "lease", "ledger", "offset")

    def __init__(self, ledger: "Ledger", offset: int, attempt: int, lease: Lease | None) -> None:
        self.ledger = ledger
        self.offset = offset
        self.attempt = attempt
        self.lease = lease


class Ledger:
    """One group's place in one queue."""

    __slots__ = ("dirty", "lines", "moved", "next", "open", "origins", "queue_id", "subscription")

    def __init__(self, subscription: "Subscription", queue_id: int, next_offset: int = 0) -> None:
        self.subscription = subscription
        self.queue_id = queue_id
        self.next = next_offset
        self.open: dict[int, Open] = {}
        self.moved: dict[int, Open] = {}  # carried forward: our offset -> the open message in the retry topic
        self.origins: dict[int, tuple[Ledger, int]] = {}  # in a retry topic: offset -> where it came from
        self.lines: Lines | None = None  # of messages that have a message group, under the offsets of this queue
        self.dirty: set[int] = set()  # chunks of 256 offsets that changed since the last checkpoint

    def find(self, offset: int) -> Open | None:
        """The open message that was delivered under this offset, wherever it lies now."""
        return self.open.get(offset) or self.moved.get(offset)

    def committed(self) -> int:
        """The oldest offset that is not settled."""
        offset = min(self.open, default=self.next)
        first = self.lines.first() if self.lines is not None else None
        return offset if first is None else min(offset, first)

    def key(self, offset: int) -> int | None:
        """Of its message group, while it is in line."""
        return None if self.lines is None else self.lines.key(offset)

    def held(self) -> list[int]:
        """The offsets of all that is delivered, ready again or parked, wherever it lies now."""
        return [*self.open, *self.moved, *reversed(self.parked())]

    def parked(self) -> list[int]:
        """Offsets that wait for others of their message group and were never delivered."""
        return [offset for offset in self.lines or () if self.find(offset) is None]

    def first_parked(self) -> int | None:
        """The lowest of these."""
        if self.lines is None or not self.lines.parked:
            return None
        return next((offset for offset in self.lines.in_order() if self.find(offset) is None), None)

    def is_front(self, key: int, offset: int) -> bool:
        """It is the first in its line."""
        return self.lines is not None and self.lines.at(key, 0) == offset


class Subscription:
    """One group on one topic. `pending`: queues that may hold something new; `ready`: what is to be delivered again.

    `lines`: message groups whose front may be delivered, each as ledger and key; some may have been meanwhile. `lite`:
    it reads the topic by its lite topics (lites.py); then lines that are over are among `lines`, too. `bands`: takes
    the place of `ready` where receives go by queue.
    """

    __slots__ = ("bands", "group", "ledgers", "lines", "lite", "pending", "ready", "topic")

    def __init__(self, group: str, topic: str) -> None:
        self.group = group
        self.topic = topic
        self.ledgers: dict[int, Ledger] = {}
        self.ready: deque[Open] = deque()
        self.bands: Bands | None = None
        self.lines: deque[tuple[Ledger, int]] = deque()
        self.pending: dict[int, None] = {}
        self.lite = False

    def forget_ready(self) -> None:
        """Nothing of what was delivered or parked comes any more."""
        self.ready.clear()
        self.lines.clear()
        if self.bands is not None:
            self.bands.clear()

    @property
    def has_ready(self) -> bool:
        """Something is to be delivered again, or was and is settled meanwhile."""
        return bool(self.ready or self.bands)

    def ledger(self, queue_id: int) -> Ledger:
        """Made at offset 0 on first use."""
        ledger = self.ledgers.get(queue_id)
        if ledger is None:
            ledger = self.ledgers[queue_id] = Ledger(self, queue_id)
            self.pending[queue_id] = None
        return ledger
