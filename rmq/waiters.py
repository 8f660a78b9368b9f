"""Polls that wait for a message: per group and topic, in order of arrival, each until its own end.

A waiter is a Future; who cancels it leaves the poll. Deadlines are real time (the event loop's), rounded up to 10 ms so that
many waiters share one timer.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from rmq.errors import ClientError, Code
from rmq.message import Delivered
from rmq.port import ReceiveRequest
from rmq_store.leases import Subscription
from rmq_store.wheel import Wheel

_GRAIN_MS = 10


class Waiter:
    """One poll. `future` resolves with messages, or with none at the end of the poll."""

    __slots__ = ("future", "key", "request", "subscription")

    def __init__(
        self, key: int, subscription: Subscription, request: ReceiveRequest, future: "asyncio.Future[Sequence[Delivered]]"
    ) -> None:
        self.key = key
        self.subscription = subscription
        self.request = request
        self.future = future


class Waiters:
    """All waiting polls. `polls_max` in all, `per_group_max` for one group on one topic."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, polls_max: int, per_group_max: int) -> None:
        self._loop = loop
        self._polls_max = polls_max
        self._per_group_max = per_group_max
        self._queues: dict[Subscription, deque[Waiter]] = {}
        self._by_key: dict[int, Waiter] = {}
        self._next_key = 1
        self._ends = Wheel()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, subscription: Subscription, request: ReceiveRequest) -> "asyncio.Future[Sequence[Delivered]]":
        """Waits up to `request.poll_ms`. Raises TOO_MANY_REQUESTS at the limits."""
        if len(self._by_key) >= self._polls_max or len(self._queues.get(subscription, ())) >= self._per_group_max:
            raise ClientError(Code.TOO_MANY_REQUESTS, "polling full: too many receives are waiting; poll again later")
        future: asyncio.Future[Sequence[Delivered]] = self._loop.create_future()
        waiter = Waiter(self._next_key, subscription, request, future)
        self._next_key += 1
        self._queues.setdefault(subscription, deque()).append(waiter)
        self._by_key[waiter.key] = waiter
        future.add_done_callback(lambda _: self._leave(waiter))
        due_ms = int(self._loop.time() * 1000) + request.poll_ms
        self._ends.add(due_ms - due_ms % -_GRAIN_MS, waiter.key)
        self._arm()
        return future

    def first(self, subscription: Subscription) -> Waiter | None:
        """The longest waiting poll, still in line."""
        queue = self._queues.get(subscription)
        while queue and queue[0].future.done():
            queue.popleft()
        return queue[0] if queue else None

    def in_line(self, subscription: Subscription) -> list[Waiter]:
        """All of them, in order."""
        return [w for w in self._queues.get(subscription, ()) if not w.future.done()]

    def close(self) -> None:
        """Every poll ends now, without messages."""
        for waiter in list(self._by_key.values()):
            if not waiter.future.done():
                waiter.future.set_result([])
        if self._timer is not None:
            self._timer.cancel()

    def _leave(self, waiter: Waiter) -> None:
        del self._by_key[waiter.key]
        queue = self._queues.get(waiter.subscription)
        if queue is None:
            return
        if waiter in queue:
            queue.remove(waiter)
        if not queue:
            del self._queues[waiter.subscription]

    def _arm(self) -> None:
        due_ms = self._ends.next_due_ms()
        if due_ms is not None and (self._timer is None or due_ms / 1000 < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due_ms / 1000, self._end_due)

    def _end_due(self) -> None:
        self._timer = None
        for key in self._ends.pop_due(int(self._loop.time() * 1000) + 1, 1000):
            waiter = self._by_key.get(key)
            if waiter is not None and not waiter.future.done():
                waiter.future.set_result([])
        self._arm()
