"""Which half messages live, until when nobody is asked about them, and how ended ones ended: the topic
RMQ_SYS_TRANS_HALF_TOPIC, on lease time.

A half message's *number* is the queue offset of its record in the half topic's one queue. When retention carries one
forward it gets a new record and so a new number, but goes on by its first one: that is what records and clients name.

    put(number) -> lives --committed: the real message was appended, with RMQ_ORIGIN naming the first number
                   |   ^ |--rolled back: a journal entry (HalfEnded)
                   |---| checked: a journal entry (HalfChecked)   |---| carried: another record names the first number

What ended is remembered for a while: outcomes.py. Its record says when it is checked first, and how often it was
already when it was carried: property RMQ_CHECK, `due_ms@checks`.

Tables and their transitions, the same ones live and in replay. No clock, no log, no policy. A half message takes about
360 bytes (tests/store/test_halves.py).
"""

from collections.abc import Iterator, Mapping

import msgspec

from rmq_store.outcomes import COMMITTED, ROLLED_BACK, Outcomes
from rmq_store.timers import REAL_TOPIC
from rmq_store.wheel import Wheel

TOPIC = "RMQ_SYS_TRANS_HALF_TOPIC"
TOPIC_BYTES = TOPIC.encode()
CHECK = "RMQ_CHECK"
_DIGITS_MAX = 15
PARKED_MS = 0
"""A due time: never checked again."""


class Half(msgspec.Struct, gc=False):
    """One that lives. `number`: of its record now; `checks`: how often a producer was asked about it."""

    topic: str
    number: int
    due_ms: int
    checks: int


Row = tuple[int, int, int, str]
"""Number, due time, checks and topic, as a checkpoint has them."""


class Halves:
    """All that live, by first number. `parked`: of those, the ones that are never checked again.

    `due`: first numbers. Who takes one out of it sees to its check.
    """

    def __init__(self) -> None:
        self._live: dict[int, Half] = {}
        self.due = Wheel()
        self.parked: dict[int, None] = {}
        self.by_topic: dict[str, int] = {}  # how many live
        self.outcomes = Outcomes()
        self._changed: dict[int, None] = {}  # since the last checkpoint

    def __len__(self) -> int:
        return len(self._live)

    def get(self, first: int) -> Half | None:
        """None where it ended, or never was."""
        return self._live.get(first)

    def firsts(self) -> Iterator[int]:
        """All that live, in the order in which they were sent."""
        return iter(self._live)

    def put(self, first: int, half: Half) -> None:
        """A record of the half topic; `first` is another number where it carries an older one forward."""
        known = self._live.get(first)
        if known is None:
            topic = half.topic
            self.by_topic[topic] = self.by_topic.get(topic, 0) + 1
        else:
            self.due.remove(known.due_ms, first)
        self._live[first] = half
        self._set_due(first, half, half.due_ms)

    def _set_due(self, first: int, half: Half, due_ms: int) -> None:
        half.due_ms = due_ms
        self._changed[first] = None
        if due_ms == PARKED_MS:
            self.parked[first] = None
        else:
            self.parked.pop(first, None)
            self.due.add(due_ms, first)

    def carried(self, first: int, number: int) -> None:
        """Its record has been repeated."""
        half = self._live.get(first)
        if half is not None:
            half.number = number
            self._changed[first] = None

    def checked(self, first: int, due_ms: int, checks: int) -> None:
        """A producer was asked, for the `checks`th time; it is due then, or PARKED_MS."""
        half = self._live.get(first)
        if half is not None:
            self.due.remove(half.due_ms, first)
            half.checks = checks
            self._set_due(first, half, due_ms)

    def committed(self, first: int) -> None:
        """The real message is in the log."""
        self._end(first, COMMITTED)

    def rolled_back(self, first: int) -> None:
        """It will never be seen."""
        self._end(first, ROLLED_BACK)

    def _end(self, first: int, outcome: int) -> None:
        self.outcomes.put(first, outcome)
        half = self._live.pop(first, None)
        if half is None:
            return
        self.due.remove(half.due_ms, first)
        self.parked.pop(first, None)
        self._changed[first] = None
        self.by_topic[half.topic] -= 1
        if not self.by_topic[half.topic]:
            del self.by_topic[half.topic]

    @property
    def changes(self) -> int:
        """How many changed since the last checkpoint."""
        return len(self._changed)

    def repeat(self, chunk: int, ends: bytes) -> None:
        """How some ended, said once more."""
        self.outcomes.repeat(chunk, ends, self._live)

    def take_changes(self) -> Iterator[tuple[int, Row | None]]:
        """For a checkpoint: first number and row, None where it ended."""
        changed, self._changed = self._changed, {}
        for first in changed:
            half = self._live.get(first)
            yield first, (half.number, half.due_ms, half.checks, half.topic) if half is not None else None

    def change_again(self, firsts: Iterator[int]) -> None:
        """That checkpoint failed: they are still to be saved."""
        self._changed.update(dict.fromkeys(firsts))

    def clear(self) -> None:
        """The half topic was dropped."""
        self._changed.update(dict.fromkeys(self._live))
        self._live.clear()
        self.due.clear()
        self.parked.clear()
        self.by_topic.clear()
        self.outcomes.clear()


def check_text(due_ms: int, checks: int) -> str:
    """Property RMQ_CHECK."""
    return f"{due_ms}@{checks}"


def told_by(number: int, properties: Mapping[str, str]) -> Half | None:
    """What a record of the half topic says; None for Apache's, of which only its own records know what became."""
    due_ms, _, checks = properties.get(CHECK, "").partition("@")
    if not all(text.isdecimal() and len(text) <= _DIGITS_MAX for text in (due_ms, checks)):
        return None
    return Half(properties.get(REAL_TOPIC, ""), number, int(due_ms), int(checks))
