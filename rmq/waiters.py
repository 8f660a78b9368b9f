"""Polls that wait for a message: per group and topic, in order of arrival, each until its own end.

A waiter is a Future; who cancels it leaves the poll. Deadlines are real time (the event loop's), rounded up to 10 ms so
that many waiters share one timer.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence

from rmq.errors import ClientError, Code
from rmq.filter import Filter
from rmq.message import Delivered
from rmq.port import ReceiveRequest
from rmq_store.ledger import Subscription
from rmq_store.wheel import Wheel

_GRAIN_MS = 10
_ENDS_A_TURN = 1000


class Waiter:
    """One poll. `future` resolves with messages, or with none at the end of the poll."""

    __slots__ = ("future", "key", "request", "subscription")

    def __init__(
        self,
        key: int,
        subscription: Subscription,
        request: ReceiveRequest,
        future: "asyncio.Future[Sequence[Delivered]]",
    ) -> None:
        self.key = key
        self.subscription = subscription
        self.request = request
        self.future = future


class _Line:
    """The waiters of one group on one topic, and how many there are of each filter."""

    __slots__ = ("filters", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[Waiter] = deque()
        self.filters: dict[Filter, int] = {}

    def enter(self, waiter: Waiter) -> None:
        self.waiters.append(waiter)
        wanted = waiter.request.filter
        self.filters[wanted] = self.filters.get(wanted, 0) + 1

    def leave(self, waiter: Waiter) -> None:
        self.waiters.remove(waiter)
        wanted = waiter.request.filter
        self.filters[wanted] -= 1
        if not self.filters[wanted]:
            del self.filters[wanted]


class Waiters:
    """All waiting polls. `polls_max` in all, `per_group_max` for one group on one topic."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, polls_max: int, per_group_max: int) -> None:
        self._loop = loop
        self._polls_max = polls_max
        self._per_group_max = per_group_max
        self._lines: dict[Subscription, _Line] = {}
        self._by_key: dict[int, Waiter] = {}
        self._next_key = 1
        self._ends = Wheel()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, subscription: Subscription, request: ReceiveRequest) -> "asyncio.Future[Sequence[Delivered]]":
        """Waits up to `request.poll_ms`. Raises TOO_MANY_REQUESTS at the limits."""
        line = self._lines.get(subscription)
        if len(self._by_key) >= self._polls_max or (line is not None and len(line.waiters) >= self._per_group_max):
            raise ClientError(Code.TOO_MANY_REQUESTS, "polling full: too many receives are waiting; poll again later")
        if line is None:
            line = self._lines[subscription] = _Line()
        future: asyncio.Future[Sequence[Delivered]] = self._loop.create_future()
        waiter = Waiter(self._next_key, subscription, request, future)
        self._next_key += 1
        line.enter(waiter)
        self._by_key[waiter.key] = waiter
        future.add_done_callback(lambda _: self._leave(waiter))
        due_ms = int(self._loop.time() * 1000) + 1 + request.poll_ms
        self._ends.add(due_ms - due_ms % -_GRAIN_MS, waiter.key)
        self._arm()
        return future

    def in_line(self, subscription: Subscription) -> Iterator[Waiter]:
        """Those that wait, the longest waiting first. Their futures may be resolved on the way."""
        line = self._lines.get(subscription)
        return (waiter for waiter in (line.waiters if line else ()) if not waiter.future.done())

    def any(self, subscription: Subscription) -> bool:
        """Whether one waits."""
        return next(self.in_line(subscription), None) is not None

    def others(self, subscription: Subscription, mine: Filter) -> Sequence[Filter]:
        """The other filters that are waited with; a group should have but one."""
        line = self._lines.get(subscription)
        return [other for other in line.filters if other != mine] if line and len(line.filters) > 1 else ()

    def end(self, subscription: Subscription) -> None:
        """Every poll of it ends now, without messages."""
        for waiter in tuple(self.in_line(subscription)):
            waiter.future.set_result([])

    def close(self) -> None:
        """Every poll ends now, without messages."""
        for waiter in list(self._by_key.values()):
            if not waiter.future.done():
                waiter.future.set_result([])
        if self._timer is not None:
            self._timer.cancel()

    def _leave(self, waiter: Waiter) -> None:
        del self._by_key[waiter.key]
        line = self._lines[waiter.subscription]
        line.leave(waiter)
        if not line.waiters:
            del self._lines[waiter.subscription]

    def _arm(self) -> None:
        due_ms = self._ends.next_due_ms()
        if due_ms is not None and (self._timer is None or due_ms < self._timer_ms):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due_ms / 1000, self._end_due)
            self._timer_ms = due_ms  # uvloop makes a handle that cannot tell it of a time that is past

    def _end_due(self) -> None:
        self._timer = None
        for key in self._ends.pop_due(int(self._loop.time() * 1000) + 1, _ENDS_A_TURN):
            waiter = self._by_key.get(key)
            if waiter is not None and not waiter.future.done():
                waiter.future.set_result([])
        self._arm()
