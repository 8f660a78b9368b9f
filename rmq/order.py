"""FIFO: messages of one message group are delivered in order, each when those before it are settled.

While one of a group is leased, or waits to be delivered again, nothing later of that group is delivered; other groups
of the same queue flow on. The cursor reads each queue entry once: what may not be delivered yet is parked
(rmq_store/lines.py), at most `parked_max` messages in all, beyond which cursors stop at the next one to be parked.

For a group that is orderly (RocketMQ 4.x: consumeMessageOrderly) the same holds of each queue of a topic: what has no
message group on it, or is on a topic whose message groups have no say, is in line with its queue.

A client that was told fifo=true gets several messages of a group in one receive, in order, every other at most one.
"""

import logging

from rmq.filter import reading_cost
from rmq.take import Take
from rmq_store.ledger import Ledger, Open, Subscription
from rmq_store.record import Record
from rmq_store.store import Store

log_ = logging.getLogger("rmq.order")


class Order:
    """Which messages of message groups a receive may take. `parked_max`: of all consumer groups together."""

    def __init__(self, store: Store, parked_max: int) -> None:
        self._store = store
        self._leases = store.state.leases
        self._parked_max = parked_max
        self._stalled: dict[Ledger, None] = {}

    def take_lines(self, take: Take, subscription: Subscription) -> None:
        """Fronts of lines that may be delivered, and what may come with them."""
        left = []
        while subscription.lines and take.goes_on:
            place = subscription.lines.popleft()
            take.places.append(place)
            if place not in take.lines and self.take_line(take, *place):
                left.append(place)
        subscription.lines.extendleft(reversed(left))

    def take_line(self, take: Take, ledger: Ledger, key: int) -> bool:
        """What may come of one line. True where the front stays, to be taken another time."""
        lines = ledger.lines
        before = take.room
        for index in range(lines.length(key) if lines is not None else 0):
            assert lines is not None
            if take.room < before and not take.fifo:
                break
            offset = lines.at(key, index)
            if offset in lines.early:  # on its last attempt, or the ack would have been undone
                continue
            found = ledger.find(offset)
            if found is not None and found.lease is not None:
                take.lines[ledger, key] = False
                return False
            if (
                not take.goes_on
                or (found is None and take.free <= 0)
                or not self._take_one(take, ledger, offset, found)
            ):
                break
        else:
            take.lines[ledger, key] = take.fifo or take.room == before
            return False
        take.lines[ledger, key] = False
        return take.room == before

    def _take_one(self, take: Take, ledger: Ledger, offset: int, found: Open | None) -> bool:
        """Taken, or settled because nobody wants it; False where another poll does."""
        at, at_offset = (found.ledger, found.offset) if found is not None else (ledger, offset)
        is_cut = found is None and self._is_cut(ledger, offset)
        kept = None if is_cut else self._store.read_message(at.subscription.topic, at.queue_id, at_offset)
        properties = kept.decode_properties() if kept else {}
        take.budget -= 1
        if kept is not None and take.wanted.matches(properties):
            attempt = found.attempt + 1 if found is not None else 1
            take.add(ledger, offset, attempt, kept, properties, again=found is not None)
            return True
        take.budget -= reading_cost(kept.size) if kept else 0
        if kept is not None and take.spares(properties):
            return False
        take.settle(ledger, offset)
        return True

    def _is_cut(self, ledger: Ledger, offset: int) -> bool:
        """Retention is about to take it. Who got a parked one now would have it once: what is open in its segment has
        been carried forward already.
        """
        queue = self._store.state.queue(ledger.subscription.topic, ledger.queue_id)
        return queue is None or offset < queue.min_offset

    def admit(
        self, take: Take, ledger: Ledger, offset: int, key: int, found: Record, properties: dict[str, str]
    ) -> bool:
        """A message that the cursor has reached is taken or parked; False where too many are parked."""
        place = (ledger, key)
        free = take.lines.get(place)
        if free is None:
            free = ledger.lines is None or not ledger.lines.length(key)
        if not free and self._leases.parked_count + take.parked >= self._parked_max:
            take.stalled = True
            return False
        take.grouped.setdefault(ledger, []).append((offset, key))
        if free:
            take.add(ledger, offset, 1, found, properties)
        else:
            take.parked += 1
            take.budget -= reading_cost(found.size)
        take.lines[place] = free and take.fifo
        return True

    def stall(self, take: Take, ledger: Ledger) -> None:
        """The queue's cursor stops here until there are fewer parked messages."""
        take.stalled = False
        if not self._stalled:
            group, topic = ledger.subscription.group, ledger.subscription.topic
            log_.warning(
                "parked_max = %d messages wait for others of their message group: group %s stops in queue %d of %s, "
                "and maybe others do, until some are acknowledged",
                self._parked_max, group, ledger.queue_id, topic,
            )  # fmt: skip
        self._stalled[ledger] = None

    def go_on(self) -> None:
        """Lets cursors that were stopped go on, where there is room again."""
        if self._stalled and self._leases.parked_count < self._parked_max:
            for ledger in self._stalled:
                ledger.subscription.pending[ledger.queue_id] = None
                self._leases.woken[ledger.subscription] = None
            self._stalled.clear()
