"""Receives: answered at once, or waiting, and then served when there may be something, in turns of bounded work.

A line is what polls wait on together: a group's subscription of a topic, or one client's reader of lite topics.
"""

import asyncio
from collections.abc import Callable, Sequence

from rmq.errors import ClientError
from rmq.filter import Filter
from rmq.litereaders import LiteReaders, Reader
from rmq.message import Delivered
from rmq.pop import Pop
from rmq.port import Answer, ReceiveRequest
from rmq.scan import SCAN_MAX
from rmq.waiters import Waiters
from rmq_store.errors import StoreError
from rmq_store.leases import Leases
from rmq_store.ledger import Subscription

_POLLS_A_TURN = 32  # waiting polls answered in one turn, of at most receive_batch_max messages each


class Serving:
    """Who is served when. `done()` is called when leases may have changed; `ending`: no poll waits any more."""

    def __init__(
        self,
        pop: Pop,
        readers: LiteReaders,
        waiters: Waiters,
        leases: Leases,
        loop: asyncio.AbstractEventLoop,
        *,
        write: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        self._pop = pop
        self._readers = readers
        self._waiters = waiters
        self._leases = leases
        self._loop = loop
        self._write = write
        self._done = done
        self._lines: dict[Subscription, None] = {}  # whose polls may get something
        self.is_due = False  # a turn is on its way
        self.ending = False

    def receive(self, line: Subscription, request: ReceiveRequest) -> Answer[Sequence[Delivered]]:
        """What there is, or what will be. Raises TOO_MANY_REQUESTS."""
        waits = request.poll_ms > 0 and not self.ending
        if self.is_due and waits and not request.filter.is_all:
            waiting = self._waiters.add(line, request)  # a turn's scans are bounded in all, see _serve
            self._later(line)
            return waiting
        messages = self._take(line, request)
        self.go_on()
        if messages or not waits:
            self._done()
            return messages
        waiting = self._waiters.add(line, request)
        if self._pop.has_more(line):
            self._later(line)
        return waiting

    def _take(self, line: Subscription, request: ReceiveRequest) -> list[Delivered]:
        """Their leases are written by then: a kill behind the answer takes none."""
        if isinstance(line, Reader):
            messages = self._readers.take(line, request)
        else:
            messages = self._pop.take(line, request, self._waiters.others(line, request.filter))
        if messages:
            self._write()
        return messages

    def wake(self, line: Subscription) -> None:
        """It may have something."""
        if self._waiters.any(line):
            self._later(line)

    def go_on(self) -> None:
        """Wakes whoever may have something by what was settled, given back or became due."""
        self._pop.order.go_on()
        woken = self._leases.woken
        while woken:
            line = next(iter(woken))
            del woken[line]
            if line.lite:
                self._readers.woken(line)  # which wakes those of its readers that it means
            self.wake(line)

    def _later(self, line: Subscription) -> None:
        self._lines[line] = None
        if not self.is_due:
            self.is_due = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """Waiting polls of lines that may have something now; who has more lines up behind the rest. A turn is over
        when it looked at SCAN_MAX queue entries, however many groups have a filter and a long backlog.
        """
        self.is_due = False
        left = _POLLS_A_TURN
        looked_max = self._pop.looked + SCAN_MAX
        for line in list(self._lines):
            if left <= 0 or self._pop.looked >= looked_max:
                break
            del self._lines[line]
            left -= self._serve_line(line, left, looked_max)
            if self._pop.has_more(line) and self._waiters.any(line):
                self._lines[line] = None
        self.go_on()
        for line in list(self._lines)[:1]:
            self._later(line)
        self._done()

    def _serve_line(self, line: Subscription, limit: int, looked_max: int) -> int:
        """Polls in order of arrival; returns how many are answered. One in vain speaks for all with its filter."""
        answered = 0
        in_vain: set[Filter] = set()
        for waiter in self._waiters.in_line(line):
            if answered >= limit or self._pop.looked >= looked_max or not self._pop.has_more(line):
                break
            wanted = waiter.request.filter
            if wanted in in_vain:
                continue
            try:
                messages = self._take(line, waiter.request)
            except (ClientError, OSError, StoreError) as error:
                waiter.reject(error)
                answered += 1
                continue
            if messages:
                waiter.resolve(messages)
                answered += 1
            else:
                in_vain.add(wanted)
        return answered
