"""The timer wheel: when something is due, to the millisecond. One class, for wall time and for lease time alike.

Timers that share a millisecond share a slot: a packed array of 8-byte keys, or the key itself while it is alone. A
timer costs 8 bytes where its millisecond has many, about 100 (and its key) where it is alone. A slot is found by its
due time, the next one by a heap of due times. A timer is never removed: whoever set it looks, when it fires, whether it
still means anything, and builds a new wheel when too many do not.
"""

import heapq
from array import array
from collections.abc import Iterator


class Wheel:
    """Timers as (due_ms, key); key is a signed 64-bit number of the owner's."""

    def __init__(self) -> None:
        self._slots: dict[int, int | array[int]] = {}
        self._dues: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, due_ms: int, key: int) -> None:
        """Fires `key` once, at or after `due_ms`."""
        slot = self._slots.get(due_ms)
        if slot is None:
            self._slots[due_ms] = key
            heapq.heappush(self._dues, due_ms)
        elif isinstance(slot, int):
            self._slots[due_ms] = array("q", (slot, key))
        else:
            slot.append(key)
        self._count += 1

    def next_due_ms(self) -> int | None:
        """When the earliest timer is due."""
        return self._dues[0] if self._dues else None

    def pop_due(self, now_ms: int, limit: int) -> Iterator[int]:
        """Keys due by `now_ms`, in order of due time and then of setting, at most `limit` of them."""
        while limit > 0 and self._dues and self._dues[0] <= now_ms:
            due_ms = self._dues[0]
            found = self._slots[due_ms]
            slot = array("q", (found,)) if isinstance(found, int) else found
            if len(slot) <= limit:
                heapq.heappop(self._dues)
                del self._slots[due_ms]
                taken = slot
            else:
                taken, self._slots[due_ms] = slot[:limit], slot[limit:]
            limit -= len(taken)
            self._count -= len(taken)
            yield from taken
