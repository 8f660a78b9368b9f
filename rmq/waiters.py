"""Polls that wait for a message: per group and topic, in order of arrival, each until its own end.

A waiter is a Future; who resolves or cancels it takes it out of its line at once. Deadlines are real time (the event
loop's), rounded up to 25 ms: many waiters share one timer, and polls that end together are begun anew together, which
takes a third less CPU than one by one. There may be 100,000 of them, so each is one object without a closure.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rmq.errors import ClientError, Code
from rmq.filter import Filter
from rmq.message import Delivered
from rmq.port import ReceiveRequest
from rmq_store.ledger import Subscription
from rmq_store.wheel import Wheel

_GRAIN_MS = 25
_ENDS_A_TURN = 1000


class Waiter(asyncio.Future[Sequence[Delivered]]):
    """One poll: resolves with messages, or with none at the end of the poll."""

    __slots__ = ("_waiters", "key", "request", "subscription")

    def __init__(self, waiters: "Waiters", key: int, subscription: Subscription, request: ReceiveRequest) -> None:
        super().__init__(loop=waiters.loop)
        self._waiters = waiters
        self.key = key
        self.subscription = subscription
        self.request = request

    def set_result(self, messages: Sequence[Delivered]) -> None:
        """The end of the poll."""
        super().set_result(messages)
        self._waiters.leave(self)

    def set_exception(self, error: type | BaseException) -> None:
        """The end of the poll."""
        super().set_exception(error)
        self._waiters.leave(self)

    def cancel(self, msg: Any | None = None) -> bool:
        """The end of the poll."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._waiters.leave(self)
        return cancelled

    def add_done_callback(
        self, fn: "Callable[[Waiter], object]", *, context: contextvars.Context | None = None
    ) -> None:
        """In the context that all waiters share: without one, each callback would keep a copy of its own."""
        super().add_done_callback(fn, context=context or self._waiters.context)


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
        self.loop = loop
        self.context = contextvars.copy_context()
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
        waiter = Waiter(self, self._next_key, subscription, request)
        self._next_key += 1
        line.enter(waiter)
        self._by_key[waiter.key] = waiter
        due_ms = int(self.loop.time() * 1000) + 1 + request.poll_ms
        self._ends.add(due_ms - due_ms % -_GRAIN_MS, waiter.key)
        self._arm()
        return waiter

    def in_line(self, subscription: Subscription) -> Sequence[Waiter]:
        """Those that wait now, the longest waiting first."""
        line = self._lines.get(subscription)
        return tuple(line.waiters) if line else ()

    def any(self, subscription: Subscription) -> bool:
        """Whether one waits."""
        return subscription in self._lines

    def others(self, subscription: Subscription, mine: Filter) -> Sequence[Filter]:
        """The other filters that are waited with; a group should have but one."""
        line = self._lines.get(subscription)
        return [other for other in line.filters if other != mine] if line and len(line.filters) > 1 else ()

    def end(self, subscription: Subscription) -> None:
        """Every poll of it ends now, without messages."""
        for waiter in self.in_line(subscription):
            waiter.set_result([])

    def close(self) -> None:
        """Every poll ends now, without messages."""
        for waiter in list(self._by_key.values()):
            waiter.set_result([])
        if self._timer is not None:
            self._timer.cancel()

    def leave(self, waiter: Waiter) -> None:
        """A waiter's own last act."""
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
            self._timer = self.loop.call_at(due_ms / 1000, self._end_due)
            self._timer_ms = due_ms  # uvloop makes a handle that cannot tell it of a time that is past

    def _end_due(self) -> None:
        self._timer = None
        for key in self._ends.pop_due(int(self.loop.time() * 1000) + 1, _ENDS_A_TURN):
            waiter = self._by_key.get(key)
            if waiter is not None:
                waiter.set_result([])
        self._arm()
