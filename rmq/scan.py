"""Looks for messages in one queue without taking them: from an offset on, by filter, in bounded work; or by time.

What a group holds has no say here, and nothing changes. Whoever waits for more calls again from where it ended.
"""

from collections.abc import Iterator

from rmq.filter import Filter, reading_cost
from rmq_store.consumequeue import ConsumeQueue, Entry
from rmq_store.record import Record
from rmq_store.store import Store

SCAN_MAX = 800  # queue entries that one scan looks at, a record read in vain counts more: 4 ms (Apache: 800)
_READ_AHEAD = 64  # queue entries read at once where not each of them is wanted


class Scan:
    """One look from `offset` on: `found` holds the wanted messages, `offset` is then behind the last one looked at.

    `room` in messages, `bytes_left` in record bytes: the last message may be larger. `cost`: what was looked at.
    """

    __slots__ = ("bytes_left", "cost", "found", "offset", "room", "wanted")

    def __init__(self, offset: int, wanted: Filter, room: int, bytes_max: int) -> None:
        self.offset = offset
        self.wanted = wanted
        self.room = room
        self.bytes_left = bytes_max
        self.cost = 0
        self.found: list[tuple[Record, dict[str, str]]] = []

    @property
    def goes_on(self) -> bool:
        """There is room for one more message, and leave to look for it."""
        return self.room > 0 and self.bytes_left > 0 and self.cost < SCAN_MAX

    def run(self, store: Store, queue: ConsumeQueue) -> None:
        """Raises OSError where the disk fails."""
        self.offset = max(self.offset, queue.min_offset)
        for entry in self._entries(queue):
            self.cost += 1
            seen, cost = look(store, queue, self.offset, entry, self.wanted)
            self.cost += cost
            self.offset += 1
            if seen is not None:
                self.found.append(seen)
                self.room -= 1
                self.bytes_left -= seen[0].size

    def _entries(self, queue: ConsumeQueue) -> Iterator[Entry]:
        """Visible entries, as long as the scan goes on."""
        while self.goes_on and self.offset < queue.visible:
            ahead = self.room if self.wanted.is_all else _READ_AHEAD
            entries = queue.read(self.offset, min(ahead, queue.visible - self.offset))
            if not entries:
                raise OSError(f"the index of {queue.topic} queue {queue.queue_id} ends before offset {self.offset}")
            for entry in entries:
                if not self.goes_on:
                    return
                yield entry


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
