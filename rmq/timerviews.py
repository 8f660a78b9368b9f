"""Delayed messages for people: which wait, and how to end one. A list looks at a bounded number of them."""

from collections.abc import Iterator

from rmq.adminport import Timer
from rmq.browse import as_kept
from rmq.delay import Delay
from rmq.errors import ClientError, Code
from rmq.port import Answer
from rmq_store import timers
from rmq_store.journal import TimerEnded
from rmq_store.store import Store

LOOKED_AT_MAX = 10_000  # timers that a list of one topic's looks at


class TimerViews:
    """Over the store's table of timers."""

    def __init__(self, store: Store, delay: Delay) -> None:
        self._store = store
        self._timers = store.state.timers
        self._delay = delay

    def all(self, topic: str, limit: int) -> Iterator[Timer]:
        """See AdminPort."""
        found = self._timers.earliest(LOOKED_AT_MAX if topic else limit)
        for due_ms, first in found:
            timer = self._timer(first, due_ms)
            if timer is not None and topic in ("", timer.message.topic):
                yield timer
                limit -= 1
                if not limit:
                    return

    def one(self, number: int) -> Timer:
        """See AdminPort."""
        kept = self._delay.read(self._timers.current(number)) if number >= 0 else None
        due_ms = timers.due_of(kept.decode_properties()) if kept else 0
        timer = self._timer(number, due_ms)
        if timer is None:
            raise ClientError(Code.NOT_FOUND, f"there is no delayed message {number} that waits")
        return timer

    def _timer(self, first: int, due_ms: int) -> Timer | None:
        kept = self._delay.read(self._timers.current(first)) if self._timers.waits(first, due_ms) else None
        if kept is None:
            return None
        properties = kept.decode_properties()
        message = as_kept(kept, properties)
        message.topic = properties.get(timers.REAL_TOPIC, "")
        message.queue_id = int(properties.get(timers.REAL_QUEUE) or 0)
        return Timer(first, due_ms, message)

    def cancel(self, number: int) -> Answer[None]:
        """See AdminPort."""
        timer = self.one(number)
        self._store.apply(TimerEnded(timer.number, timer.due_ms))
        return self._store.when_safe(None)
