"""Which delayed messages wait, until when: the timers of the topic rmq_sys_wheel_timer, on wall time.

A timer's *number* is the queue offset of its record in the timer topic's one queue; the queue's entry says where the
record is, so nothing more is kept of a timer than its number, under its due time. When retention carries a timer
forward it gets a new record and so a new number, but goes on by its first one: that is what the wheel, records and
clients name. So timers of one millisecond fire in the order in which they were sent, whatever was carried.

    put(number) -> waits --fired: the real message was appended, with RMQ_ORIGIN naming the first number
                   |   ^ |--ended: a journal entry (TimerEnded): recalled, or nothing is left to deliver
                   |---| carried: another record of the timer topic names the first number

Tables and their transitions, the same ones live and in replay. No clock, no log, no policy. A timer takes about 25
bytes, one that was carried forward 50, whether its millisecond has others or not (tests/store/test_timers.py).
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rmq_store.packed import PackedPairs
from rmq_store.wheel import Wheel

TOPIC = "rmq_sys_wheel_timer"
TOPIC_BYTES = TOPIC.encode()
DELIVER_MS = "TIMER_DELIVER_MS"
OUT_MS = "TIMER_OUT_MS"
REAL_TOPIC = "REAL_TOPIC"
REAL_QUEUE = "REAL_QID"
TIMER_PROPERTIES = (OUT_MS, REAL_TOPIC, REAL_QUEUE)  # what a timer's record has besides the message's own
_SLOT_MS = 1000  # Apache's timerPrecisionMs

GONE = -1
Changes: TypeAlias = "array[int]"
"""Due time, number and first number of each timer that came, or GONE for one that went; the last one counts."""


class Timers:
    """All timers. `fired_ms`: the latest due time that was ever delivered; the clock may have gone back since."""

    def __init__(self) -> None:
        self._wheel = Wheel()
        self._carried = PackedPairs()  # first number and the current one, where they differ
        self._unsorted: set[int] = set()  # due times at which a carried timer came behind later ones: in a replay
        self.fired_ms = 0
        self.changes: Changes = array("q")  # since the last checkpoint

    def __len__(self) -> int:
        return len(self._wheel)

    def put(self, number: int, due_ms: int, first: int) -> None:
        """A record of the timer topic; `first` is another number where it carries an older one forward."""
        if first == number:
            self._wheel.add(due_ms, number)
        else:
            self._carry(number, due_ms, first)
        self.changes.extend((due_ms, number, first))

    def _carry(self, number: int, due_ms: int, first: int) -> None:
        if self._wheel.has(due_ms, first):
            self.changes.extend((due_ms, self.current(first), GONE))
        else:  # its first record went with its segment
            self._wheel.add(due_ms, first)
            self._unsorted.add(due_ms)
        self._carried.remove(first, self.current(first))
        self._carried.add(first, number)

    def fired(self, first: int, due_ms: int) -> None:
        """The real message is in the log."""
        self._remove(first, due_ms)
        self.fired_ms = max(self.fired_ms, due_ms)

    def ended(self, first: int, due_ms: int) -> None:
        """It will never be delivered."""
        self._remove(first, due_ms)

    def _remove(self, first: int, due_ms: int) -> None:
        current = self.current(first)
        self._wheel.remove(due_ms, first)
        self._carried.remove(first, current)
        self.changes.extend((due_ms, current, GONE))

    def current(self, first: int) -> int:
        """The number of the record that holds this timer now."""
        carried = self._carried.rights(first, 1) if self._carried else ()
        return carried[0] if carried else first

    def waits(self, first: int, due_ms: int) -> bool:
        """Neither fired nor ended."""
        return self._wheel.has(due_ms, first)

    def next_due_ms(self) -> int | None:
        """When the earliest timer is due."""
        return self._wheel.next_due_ms()

    def head(self, now_ms: int, limit: int) -> tuple[int, Sequence[int]]:
        """The earliest millisecond that is due, and first numbers; see Wheel.head."""
        self._sort(self._wheel.next_due_ms())
        return self._wheel.head(now_ms, limit)

    def _sort(self, due_ms: int | None) -> None:
        if due_ms in self._unsorted:
            self._unsorted.remove(due_ms)
            self._wheel.sort(due_ms)

    def earliest(self, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` timers as (due_ms, first number), the earliest first."""
        for due_ms in list(self._unsorted):
            self._sort(due_ms)
        return self._wheel.earliest(limit)

    def due_after(self, due_ms: int) -> int | None:
        """When the earliest timer is due that is due later than that."""
        return self._wheel.due_after(due_ms)

    def numbers_at(self, due_ms: int) -> Sequence[int]:
        """The first numbers of those that are due then."""
        return self._wheel.keys_at(due_ms)

    def take_changes(self) -> Changes:
        """For a checkpoint; what `give_back` gets where that one failed."""
        changes, self.changes = self.changes, array("q")
        return changes

    def give_back(self, changes: Changes) -> None:
        """They are still to be saved, before what has changed since."""
        self.changes = changes + self.changes

    def restore(self, dues: "array[int]", numbers: "array[int]", firsts: "array[int]") -> None:
        """All that a checkpoint has, by due time and number, where there are none."""
        self._wheel.fill(dues, firsts)
        if numbers != firsts:
            carried = [at for at, (one, other) in enumerate(zip(numbers, firsts, strict=True)) if one != other]
            carried.sort(key=firsts.__getitem__)
            self._carried.fill(array("q", [firsts[at] for at in carried]), array("q", [numbers[at] for at in carried]))
            self._unsorted.update(dues[at] for at in carried)

    def clear(self) -> None:
        """The timer topic was dropped."""
        for due_ms, first in self._wheel.earliest(len(self._wheel)):
            self.changes.extend((due_ms, self.current(first), GONE))
        self._wheel.clear()
        self._carried.clear()
        self._unsorted.clear()


def due_of(properties: Mapping[str, str]) -> int:
    """When a message is to be delivered, in wall-clock ms; 0 where it does not say."""
    text = properties.get(DELIVER_MS, "")
    return int(text) if text.isdecimal() and len(text) <= 15 else 0


def out_ms(due_ms: int) -> int:
    """TIMER_OUT_MS: the slot in which an Apache broker puts the timer (facts: store.md 4.2)."""
    return (due_ms - 1) // _SLOT_MS * _SLOT_MS
