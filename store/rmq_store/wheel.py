"""The timer wheel: when something is due, to the millisecond. One class, for wall time and for lease time alike.

Timers that share a millisecond share a slot: a packed array of 8-byte keys, or the key itself while it is alone. A
timer costs 8 bytes where its millisecond has many, about 100 (and its key) where it is alone. A slot is found by its
due time, the next one by a heap of due times. Who may have many timers that mean nothing any more either takes each out
(`remove`, for who knows its due time), or looks, when it fires, whether it still means anything, and builds a new wheel
when too many do not.
"""

import heapq
from array import array
from collections.abc import Iterator, Sequence

_STALE_DUES = 1000  # due times without a timer that the heap may hold, besides as many as there are slots


class Wheel:
    """Timers as (due_ms, key); key is a signed 64-bit number of the owner's."""

    def __init__(self) -> None:
        self._slots: dict[int, int | array[int]] = {}
        self._dues: list[int] = []
        self._taken: dict[int, int] = {}  # of a large slot: how many keys at its front are removed already
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

    def sort(self, due_ms: int) -> None:
        """Those that are due then fire in order of their keys, not of setting."""
        slot = self._slots.get(due_ms)
        if slot is not None and not isinstance(slot, int):
            self._slots[due_ms] = array("q", sorted(slot[self._taken.pop(due_ms, 0) :]))

    def has(self, due_ms: int, key: int) -> bool:
        """Whether that timer waits."""
        slot = self._slots.get(due_ms)
        if slot is None or isinstance(slot, int):
            return slot == key
        return self._find(due_ms, slot, key) is not None

    def _find(self, due_ms: int, slot: "array[int]", key: int) -> int | None:
        try:
            return slot.index(key, self._taken.get(due_ms, 0))
        except ValueError:
            return None

    def remove(self, due_ms: int, key: int) -> bool:
        """Takes one timer out; False where there is none. The first of a slot costs little, however long the slot."""
        slot = self._slots.get(due_ms)
        if slot is None or isinstance(slot, int):
            if slot != key:
                return False
            self._drop_slot(due_ms)
        else:
            at = self._find(due_ms, slot, key)
            if at is None:
                return False
            if at == self._taken.get(due_ms, 0):
                self._cut(due_ms, slot, at + 1)
            else:
                del slot[at]
        self._count -= 1
        return True

    def _cut(self, due_ms: int, slot: "array[int]", front: int) -> None:
        """What lies before `front` is taken; the array moves only when that halves it."""
        if front == len(slot):
            self._drop_slot(due_ms)
        elif front < len(slot) // 2:
            self._taken[due_ms] = front
        else:
            del slot[:front]
            self._taken.pop(due_ms, None)

    def _drop_slot(self, due_ms: int) -> None:
        del self._slots[due_ms]
        self._taken.pop(due_ms, None)
        if len(self._dues) > 2 * len(self._slots) + _STALE_DUES:
            self._dues = list(self._slots)
            heapq.heapify(self._dues)

    def next_due_ms(self) -> int | None:
        """When the earliest timer is due."""
        while self._dues and self._dues[0] not in self._slots:
            heapq.heappop(self._dues)
        return self._dues[0] if self._dues else None

    def head(self, now_ms: int, limit: int) -> tuple[int, Sequence[int]]:
        """The earliest millisecond that is due by `now_ms`, and up to `limit` of its keys in order of setting; they
        stay. No keys where nothing is due.
        """
        due_ms = self.next_due_ms()
        if due_ms is None or due_ms > now_ms:
            return now_ms, ()
        return due_ms, self.keys_at(due_ms, limit)

    def pop_due(self, now_ms: int, limit: int) -> Iterator[int]:
        """Keys due by `now_ms`, in order of due time and then of setting, at most `limit` of them."""
        while limit > 0:
            due_ms, keys = self.head(now_ms, limit)
            if not keys:
                return
            limit -= len(keys)
            self._pop_front(due_ms, len(keys))
            yield from keys

    def _pop_front(self, due_ms: int, count: int) -> None:
        slot = self._slots[due_ms]
        if isinstance(slot, int):
            self._drop_slot(due_ms)
        else:
            self._cut(due_ms, slot, self._taken.get(due_ms, 0) + count)
        self._count -= count

    def earliest(self, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` timers as (due_ms, key), the earliest first; costs no more with many than with few."""
        found: list[tuple[int, int]] = []
        last_ms = None
        heap = [(self._dues[0], 0)] if self._dues else []
        while heap and len(found) < limit:
            due_ms, at = heapq.heappop(heap)
            for child in range(2 * at + 1, min(2 * at + 3, len(self._dues))):
                heapq.heappush(heap, (self._dues[child], child))
            if due_ms != last_ms:  # a millisecond may be in the heap twice: it was empty in between
                found += [(due_ms, key) for key in self.keys_at(due_ms, limit - len(found))]
            last_ms = due_ms
        return found

    def dues(self) -> list[int]:
        """The milliseconds that have timers now, in no order; `keys_at` asks what is there by then."""
        return list(self._slots)

    def keys_at(self, due_ms: int, limit: int) -> Sequence[int]:
        """A copy of up to `limit` of the keys that are due then, in order of setting."""
        slot = self._slots.get(due_ms)
        if slot is None or isinstance(slot, int):
            return () if slot is None else (slot,)[:limit]
        front = self._taken.get(due_ms, 0)
        return slot[front : front + limit]

    def clear(self) -> None:
        """None is left."""
        self._slots.clear()
        self._dues.clear()
        self._taken.clear()
        self._count = 0
