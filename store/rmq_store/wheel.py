"""The timer wheel: when something is due, to the millisecond. One class, for wall time and for lease time alike.

A timer takes about 25 bytes, its due time and key included, however many share its millisecond (packed.py). Who may
have many timers that mean nothing any more either takes each out (`remove`, for who knows its due time), or looks, when
it fires, whether it still means anything, and builds a new wheel when too many do not.
"""

import itertools
from array import array
from collections.abc import Iterator, Sequence

from rmq_store.packed import PackedPairs


class Wheel:
    """Timers as (due_ms, key); key is a signed 64-bit number of the owner's."""

    def __init__(self) -> None:
        self._timers = PackedPairs()

    def __len__(self) -> int:
        return len(self._timers)

    def add(self, due_ms: int, key: int) -> None:
        """Fires `key` once, at or after `due_ms`."""
        self._timers.add(due_ms, key)

    def fill(self, dues: "array[int]", keys: "array[int]") -> None:
        """Sets many at once, where there are none; `dues` rise."""
        self._timers.fill(dues, keys)

    def sort(self, due_ms: int) -> None:
        """Those that are due then fire in order of their keys, not of setting."""
        self._timers.sort(due_ms)

    def has(self, due_ms: int, key: int) -> bool:
        """Whether that timer waits."""
        return self._timers.has(due_ms, key)

    def remove(self, due_ms: int, key: int) -> bool:
        """Takes one timer out; False where there is none. The first of its millisecond costs little, however many."""
        return self._timers.remove(due_ms, key)

    def next_due_ms(self) -> int | None:
        """When the earliest timer is due."""
        return self._timers.first()

    def due_after(self, due_ms: int) -> int | None:
        """When the earliest timer is due that is due later than that."""
        return self._timers.after(due_ms)

    def head(self, now_ms: int, limit: int) -> tuple[int, Sequence[int]]:
        """The earliest millisecond that is due by `now_ms`, and keys of it in order of setting, which stay: one at
        least, `limit` at most. None where nothing is due.
        """
        due_ms = self._timers.first()
        if due_ms is None or due_ms > now_ms:
            return now_ms, ()
        return due_ms, self._timers.front(limit)

    def pop_due(self, now_ms: int, limit: int) -> Iterator[int]:
        """Keys due by `now_ms`, in order of due time and then of setting, at most `limit` of them."""
        while limit > 0:
            _, keys = self.head(now_ms, limit)
            if not keys:
                return
            limit -= len(keys)
            self._timers.drop_first(len(keys))
            yield from keys

    def earliest(self, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` timers as (due_ms, key), the earliest first; costs no more with many than with few."""
        return list(itertools.islice(self._timers, limit))

    def keys_at(self, due_ms: int) -> Sequence[int]:
        """A copy of the keys that are due then, in order of setting."""
        return self._timers.rights(due_ms, len(self._timers))

    def clear(self) -> None:
        """None is left."""
        self._timers.clear()
