"""Looks for messages in queues, in bounded work; or for the one of a certain time.

Nothing changes here, and what a group holds has no say. Whoever waits for more looks again from where it ended.
"""

from collections.abc import Iterator

from rmq.filter import Filter, reading_cost
from rmq_store.consumequeue import ConsumeQueue, Entry
from rmq_store.record import Record
from rmq_store.store import Store

SCAN_MAX = 800  # queue entries that one look may see, a record read in vain counts more: 4 ms (Apache: 800)
READ_AHEAD = 64  # queue entries read at once where not each of them is wanted


class Look:
    """What somebody looks for in queues, and how much more of it: `room` in messages, `bytes` in record bytes (the last
    message may be larger than what is left), `budget` in queue entries, as SCAN_MAX counts them.
    """

    __slots__ = ("budget", "bytes", "room", "wanted")

    def __init__(self, room: int, bytes_max: int, wanted: Filter) -> None:
        self.room = room
        self.bytes = bytes_max
        self.budget = SCAN_MAX
        self.wanted = wanted

    @property
    def goes_on(self) -> bool:
        """There is room for one more message, and leave to look for it."""
        return self.room > 0 and self.bytes > 0 and self.budget > 0

    @property
    def ahead(self) -> int:
        """How many queue entries to read at once."""
        return self.room if self.wanted.is_all else READ_AHEAD

    def entries(self, queue: ConsumeQueue, offset: int) -> Iterator[tuple[int, Entry]]:
        """Visible ones from an offset on, as long as the look goes on."""
        while self.goes_on and offset < queue.visible:
            entries = queue.read(offset, min(self.ahead, self.budget, queue.visible - offset))
            if not entries:
                raise OSError(f"the index of {queue.topic} queue {queue.queue_id} ends before offset {offset}")
            for entry in entries:
                if not self.goes_on:
                    return
                yield offset, entry
                offset += 1


class Scan(Look):
    """One look at one queue, that takes nothing: `found`, and in `offset` the one behind the last entry looked at."""

    __slots__ = ("found", "offset")

    def __init__(self, offset: int, wanted: Filter, room: int, bytes_max: int) -> None:
        super().__init__(room, bytes_max, wanted)
        self.offset = offset
        self.found: list[tuple[Record, dict[str, str]]] = []

    def run(self, store: Store, queue: ConsumeQueue) -> None:
        """Raises OSError where the disk fails."""
        self.offset = max(self.offset, queue.min_offset)
        for at, entry in self.entries(queue, self.offset):
            seen, cost = look(store, queue, at, entry, self.wanted)
            self.budget -= 1 + cost
            self.offset = at + 1
            if seen is not None:
                self.found.append(seen)
                self.room -= 1
                self.bytes -= seen[0].size


def look(
    store: Store, queue: ConsumeQueue, offset: int, entry: Entry, wanted: Filter
) -> tuple[tuple[Record, dict[str, str]] | None, int]:
    """The message and its properties where it is wanted, else None, and what it cost to read it in vain."""
    if not wanted.may_match(entry.tags_code):
        return None, 0
    found = store.read(queue, offset, entry)
    if found is None:
        return None, reading_cost(0)
    properties = found.decode_properties()
    return ((found, properties), 0) if wanted.matches(properties) else (None, reading_cost(found.size))


def offset_at(store: Store, queue: ConsumeQueue, time_ms: int) -> int:
    """The first that was stored then or later; store times do not fall within a queue, but for clock steps."""
    low, high = queue.min_offset, queue.visible
    while low < high:
        middle = (low + high) // 2
        entries = queue.read(middle, 1)
        found = store.read(queue, middle, entries[0]) if entries else None
        if found is not None and found.store_ms < time_ms:
            low = middle + 1
        else:
            high = middle
    return low
