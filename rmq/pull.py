"""Pulls: a client reads one queue from an offset of its own, and keeps count itself. Polls wait here for news.

Takes nothing: no lease, no place of any group moves, and what is leased to others is read all the same; a pulled
message has no handle. What is not safe yet, was expired by retention or lies in another topic (delayed messages, halves
of transactions) is not in the queue for anyone. A pull that looks in vain goes on by itself, in bounded turns, until
its poll ends; its answer says how far it came, so that the next one need not look there again.
"""

import asyncio
from collections import deque

from rmq.config import Config
from rmq.errors import OffsetError
from rmq.port import Answer, Pulled, PullRequest
from rmq.scan import SCAN_MAX, Scan
from rmq.take import delivered
from rmq.traffic import Traffic
from rmq.waiters import Poll, Waiters
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.ledger import Subscription
from rmq_store.store import Store

_POLLS_A_TURN = 32  # as many as receives: see serving.py


class PullPoll(Poll[Pulled]):
    """A pull that waits. `pulled` says how far it has looked; `is_due`: it is in line to look again."""

    __slots__ = ("_pulls", "is_due", "pulled", "queue", "request")

    def __init__(
        self,
        waiters: Waiters,
        subscription: Subscription,
        pulls: "Pulls",
        queue: ConsumeQueue,
        request: PullRequest,
        pulled: Pulled,
    ) -> None:
        super().__init__(waiters, subscription, pulled)
        self._pulls = pulls
        self.queue = queue
        self.request = request
        self.pulled = pulled
        self.is_due = False

    def leave(self) -> None:
        """It waits no more."""
        super().leave()
        self._pulls.leave(self)


class Pulls:
    """All pulls. `looked`: queue entries that all of them looked at, as SCAN_MAX counts them."""

    def __init__(
        self, store: Store, waiters: Waiters, traffic: Traffic, config: Config, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._store = store
        self._waiters = waiters
        self._traffic = traffic
        self._config = config
        self._loop = loop
        self._polls: dict[ConsumeQueue, dict[PullPoll, None]] = {}
        self._due: deque[PullPoll] = deque()
        self._serving = False  # _serve is on its way
        self.looked = 0

    def pull(
        self, subscription: Subscription, queue: ConsumeQueue, request: PullRequest, *, wait: bool
    ) -> Answer[Pulled]:
        """See BrokerPort. `wait` False: as with `poll_ms` = 0."""
        must_have(queue, request.offset)
        pulled = Pulled([], request.offset)
        wait = wait and request.poll_ms > 0
        if not (wait and self._due and not request.filter.is_all):  # else its turn comes: a turn's work is bounded
            self._read(subscription, queue, request, pulled)
        if pulled.messages or not wait:
            return pulled
        poll = PullPoll(self._waiters, subscription, self, queue, request, pulled)
        self._waiters.enter(poll, request.poll_ms)
        self._polls.setdefault(queue, {})[poll] = None
        self._look_again(poll)
        return poll

    def visible(self, queue: ConsumeQueue) -> None:
        """There is something new in it."""
        for poll in self._polls.get(queue, ()):
            self._look_again(poll)

    def leave(self, poll: PullPoll) -> None:
        """It waits no more."""
        polls = self._polls.get(poll.queue, {})
        polls.pop(poll, None)
        if not polls:
            self._polls.pop(poll.queue, None)

    def _look_again(self, poll: PullPoll) -> None:
        if poll.is_due or poll.pulled.next_offset >= poll.queue.visible:
            return
        poll.is_due = True
        self._due.append(poll)
        self._serve_later()

    def _serve_later(self) -> None:
        if not self._serving:
            self._serving = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """Some of the polls in line; who has more to look at lines up behind the rest."""
        self._serving = False
        looked_max = self.looked + SCAN_MAX
        for _ in range(min(_POLLS_A_TURN, len(self._due))):
            if self.looked >= looked_max:
                break
            poll = self._due.popleft()
            poll.is_due = False
            if not poll.done():
                self._go_on(poll)
        if self._due:
            self._serve_later()

    def _go_on(self, poll: PullPoll) -> None:
        try:
            self._read(poll.subscription, poll.queue, poll.request, poll.pulled)
        except OSError as error:
            poll.reject(error)
            return
        if poll.pulled.messages:
            poll.resolve(poll.pulled)
        else:
            self._look_again(poll)

    def _read(self, subscription: Subscription, queue: ConsumeQueue, request: PullRequest, pulled: Pulled) -> None:
        """Goes on from where `pulled` is."""
        room = min(request.batch, self._config.receive_batch_max)
        scan = Scan(pulled.next_offset, request.filter, room, self._config.receive_bytes_max)
        scan.run(self._store, queue)
        self.looked += SCAN_MAX - scan.budget
        pulled.next_offset = scan.offset
        pulled.messages = [
            delivered(queue.topic, queue.queue_id, found.queue_offset, found.reconsume_times + 1, found, properties, "")
            for found, properties in scan.found
        ]
        if scan.found:
            size_bytes = sum(found.size for found, _ in scan.found)
            self._traffic.of(subscription).took((len(scan.found), size_bytes), (0, 0))


def must_have(queue: ConsumeQueue, offset: int) -> None:
    """It can be read from, or is the next message's. Raises OffsetError."""
    if not queue.min_offset <= offset <= queue.visible:
        raise OffsetError(
            f"queue {queue.queue_id} of topic {queue.topic} goes from offset {queue.min_offset} to {queue.visible}, "
            f"{offset} is not in it; go on from its begin or its end",
            min(max(offset, queue.min_offset), queue.visible),
        )
