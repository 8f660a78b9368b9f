"""Peeks that wait for a message: no task, one timer and one watcher each, and both go with the answer."""

import asyncio

from rmq.adminport import AdminPort, Page, Start
from rmq.errors import ClientError, Code
from rmq.filter import Filter

WAIT_MS_MAX = 30_000
WAITS_MAX = 1000
RESERVE_S = 0.05  # an answer leaves this long before its client gives up


class Waits:
    """All of one server."""

    def __init__(self, admin: AdminPort) -> None:
        self._admin = admin
        self._waits: set[_Wait] = set()
        self._closed = False

    def add(
        self,
        topic: str,
        wanted: Filter,
        limit: int,
        found: Page,
        deadline_s: float | None,
        wait_ms: int,
        *,
        rest: bool = False,
    ) -> "asyncio.Future[Page]":
        """Goes on from the empty page `found` until there are messages, at most `wait_ms` and WAIT_MS_MAX. `rest`: in
        queues that the topic gets meanwhile, too.

        `deadline_s`, on the loop's clock, ends it sooner; then the page is empty. Cancelling the Future leaves. Raises
        TOO_MANY_REQUESTS; what the broker raises meanwhile is the Future's exception.
        """
        if len(self._waits) >= WAITS_MAX:
            raise ClientError(Code.TOO_MANY_REQUESTS, f"{WAITS_MAX} peeks are waiting already; ask without wait_ms")
        now_s = asyncio.get_running_loop().time()
        end_s = now_s + min(wait_ms, WAIT_MS_MAX) / 1000
        if deadline_s is not None:
            end_s = min(end_s, deadline_s - RESERVE_S)
        wait = _Wait(self._admin, topic, wanted, limit, found, rest, now_s if self._closed else end_s)
        self._waits.add(wait)
        wait.answer.add_done_callback(lambda _: self._waits.discard(wait))
        return wait.answer

    def close(self) -> None:
        """Every wait ends now, and so does each that begins later."""
        self._closed = True
        for wait in tuple(self._waits):
            wait.end()


class _Wait:
    """One of them. Looks again whenever the topic has news, and goes on at once where a look did not reach the end."""

    def __init__(
        self, admin: AdminPort, topic: str, wanted: Filter, limit: int, found: Page, rest: bool, end_s: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._admin = admin
        self._topic = topic
        self._wanted = wanted
        self._limit = limit
        self._reached = found
        self._rest = rest
        self._watched: asyncio.Future[None] | None = None
        self.answer: asyncio.Future[Page] = self._loop.create_future()
        self._timer = self._loop.call_at(end_s, self.end)
        self.answer.add_done_callback(self._leave)
        self._look()

    def end(self) -> None:
        """No message came; the client may go on from where we are."""
        if not self.answer.done():
            self.answer.set_result(self._reached)

    def _look(self) -> None:
        if self.answer.done():
            return
        try:
            start = Start(offsets=self._reached.next, rest=self._rest)
            found = self._admin.peek(self._topic, start, self._limit, self._wanted)
            if not found.messages and found.next == self._reached.next:
                self._watched = self._admin.watch(self._topic)
                self._watched.add_done_callback(self._woken)
                return
        except ClientError as error:  # the topic may be gone
            self.answer.set_exception(error)
            return
        self._reached = found
        if found.messages:
            self.answer.set_result(found)
        else:
            self._loop.call_soon(self._look)

    def _woken(self, watched: "asyncio.Future[None]") -> None:
        if watched.cancelled():
            self.end()
        elif (error := watched.exception()) is None:
            self._look()
        elif not self.answer.done():
            self.answer.set_exception(error)

    def _leave(self, _: "asyncio.Future[Page]") -> None:
        self._timer.cancel()
        if self._watched is not None:
            self._watched.cancel()
