"""Polls that wait for a message: per group and topic, in order of arrival, each until its own end.

A poll is a Future; who resolves or cancels it takes it out of its line at once. Deadlines are real time (the event
loop's), rounded up to 25 ms: many waiters share one timer, and polls that end together are begun anew together, which
takes a third less CPU than one by one. There may be 100,000 of them, so each is one object without a closure.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from rmq.errors import ClientError, Code
from rmq.filter import Filter
from rmq.message import Delivered
from rmq.port import Later, ReceiveRequest
from rmq_store.ledger import Subscription
from rmq_store.wheel import Wheel

T = TypeVar("T")
_NO_MESSAGES: Sequence[Delivered] = []  # one for all
_GRAIN_MS = 25
_ENDS_A_TURN = 1000


class Poll(Later[T]):
    """One poll, in the line of a group on a topic: resolves with what came, or at its end with `nothing`."""

    __slots__ = ("_waiters", "key", "nothing", "subscription")

    def __init__(self, waiters: "Waiters", subscription: Subscription, nothing: T) -> None:
        super().__init__(waiters.loop)
        self._waiters = waiters
        self.key = 0
        self.subscription = subscription
        self.nothing = nothing

    def end(self) -> None:
        """Nothing came."""
        self.resolve(self.nothing)

    def leave(self) -> None:
        """It waits no more: its own last act."""
        self._waiters.leave(self)

    def resolve(self, result: Any) -> None:
        """The end of the poll."""
        self.leave()
        super().resolve(result)

    def reject(self, error: Exception) -> None:
        """The end of the poll."""
        self.leave()
        super().reject(error)

    def cancel(self, msg: Any | None = None) -> bool:
        """The end of the poll."""
        cancelled = super().cancel(msg)
        if cancelled:
            self.leave()
        return cancelled

    def add_done_callback(self, fn: "Callable[[Self], object]", *, context: contextvars.Context | None = None) -> None:
        """In the context that all polls share: without one, each callback would keep a copy of its own."""
        super().add_done_callback(fn, context=context or self._waiters.context)


class Waiter(Poll[Sequence[Delivered]]):
    """A receive that waits."""

    __slots__ = ("request",)

    def __init__(self, waiters: "Waiters", subscription: Subscription, request: ReceiveRequest) -> None:
        super().__init__(waiters, subscription, _NO_MESSAGES)
        self.request = request


class _Line:
    """The polls of one group on one topic, and of the receives among them how many there are of each filter."""

    __slots__ = ("filters", "others", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[Waiter] = deque()
        self.filters: dict[Filter, int] = {}
        self.others: dict[Poll[Any], None] = {}  # polls that are no receives

    def __len__(self) -> int:
        return len(self.waiters) + len(self.others)

    def enter(self, poll: Poll[Any]) -> None:
        if not isinstance(poll, Waiter):
            self.others[poll] = None
            return
        self.waiters.append(poll)
        wanted = poll.request.filter
        self.filters[wanted] = self.filters.get(wanted, 0) + 1

    def leave(self, poll: Poll[Any]) -> None:
        if not isinstance(poll, Waiter):
            del self.others[poll]
            return
        self.waiters.remove(poll)
        wanted = poll.request.filter
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
        self._by_key: dict[int, Poll[Any]] = {}
        self._next_key = 1
        self._ends = Wheel()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, subscription: Subscription, request: ReceiveRequest) -> "asyncio.Future[Sequence[Delivered]]":
        """Waits up to `request.poll_ms`. Raises as enter."""
        waiter = Waiter(self, subscription, request)
        self.enter(waiter, request.poll_ms)
        return waiter

    def enter(self, poll: Poll[Any], poll_ms: int) -> None:
        """It waits up to `poll_ms`. Raises TOO_MANY_REQUESTS at the limits."""
        line = self._lines.get(poll.subscription)
        if len(self._by_key) >= self._polls_max or (line is not None and len(line) >= self._per_group_max):
            raise ClientError(Code.TOO_MANY_REQUESTS, "polling full: too many polls are waiting; poll again later")
        if line is None:
            line = self._lines[poll.subscription] = _Line()
        poll.key, self._next_key = self._next_key, self._next_key + 1
        line.enter(poll)
        self._by_key[poll.key] = poll
        due_ms = int(self.loop.time() * 1000) + 1 + poll_ms
        self._ends.add(due_ms - due_ms % -_GRAIN_MS, poll.key)
        self._arm()

    def in_line(self, subscription: Subscription) -> Sequence[Waiter]:
        """Receives that wait now, the longest waiting first."""
        line = self._lines.get(subscription)
        return tuple(line.waiters) if line else ()

    def any(self, subscription: Subscription) -> bool:
        """Whether a receive waits."""
        line = self._lines.get(subscription)
        return line is not None and bool(line.waiters)

    def count(self, subscription: Subscription) -> int:
        """All polls that wait on it."""
        return len(self._lines.get(subscription, ()))

    def others(self, subscription: Subscription, mine: Filter) -> Sequence[Filter]:
        """The other filters that are waited with; a group should have but one."""
        line = self._lines.get(subscription)
        return [other for other in line.filters if other != mine] if line and len(line.filters) > 1 else ()

    def end(self, subscription: Subscription) -> None:
        """Every poll of it ends now, without messages."""
        line = self._lines.get(subscription)
        for poll in (*line.waiters, *line.others) if line else ():
            poll.end()

    def close(self) -> None:
        """Every poll ends now, without messages."""
        for poll in list(self._by_key.values()):
            poll.end()
        if self._timer is not None:
            self._timer.cancel()

    def leave(self, poll: Poll[Any]) -> None:
        """It waits no more; once more is no matter."""
        if self._by_key.pop(poll.key, None) is None:
            return
        line = self._lines[poll.subscription]
        line.leave(poll)
        if not line:
            del self._lines[poll.subscription]

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
            poll = self._by_key.get(key)
            if poll is not None:
                poll.end()
        self._arm()
