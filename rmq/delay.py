"""Delayed messages: stored under the timer topic until their wall-clock time, then delivered, or recalled before it.

    send --due later--> timer record --due: the real message, RMQ_ORIGIN names the timer--> visible to every group
         |              |--recalled: journal entry TimerEnded, safe before the answer
         |--due already: stored as any message

The real message is what ends its timer, so no crash can fall between. Delivery is never before its time by the wall
clock, whichever way that is set; timers fire in order of due time and then of sending. What retention does with timers
is rmq_store/retention.py's; which timers there are, rmq_store/timers.py's.
"""

import logging
from collections.abc import Mapping, Sequence

from rmq import hidden
from rmq.clock import Clock
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.message import MessageType, Outgoing, SendResult
from rmq.port import Answer
from rmq.recallhandle import RecallHandle
from rmq.topics import Topics
from rmq_store import record, timers
from rmq_store.errors import StoreFull
from rmq_store.journal import TimerEnded
from rmq_store.record import Draft, Record
from rmq_store.state import Origin, Topic
from rmq_store.store import Store

log_ = logging.getLogger("rmq.delay")
DELAY = MessageType.DELAY
_DELIVER_MS = timers.DELIVER_MS.encode()
_OUT = f"{timers.OUT_MS}\x01%d\x02".encode()
_RETRY_MS = 1000  # where the disk is full


class Delay:
    """The verbs of delayed messages, over the store's table of timers."""

    def __init__(self, store: Store, topics: Topics, clock: Clock, config: Config) -> None:
        self._store = store
        self._timers = store.state.timers
        self._topics = topics
        self._clock = clock
        self._config = config
        self._blocked_until_ms = 0  # lease time; 0: nothing is in the way

    # -- send --------------------------------------------------------------------------------------------------------

    def send(self, topic: Topic, messages: Sequence[Outgoing], drafts: Sequence[tuple[Draft, int]]) -> list[SendResult]:
        """Appends a batch of which some are delayed: all or none. `drafts`: each message's, with its tags code.

        Raises TOO_MANY_REQUESTS at timers_max, StoreFull.
        """
        now_ms = self._clock.wall_ms()
        waiting: list[tuple[Draft, int, int]] = []
        plain: list[tuple[Draft, int]] = []
        dues = []
        for message, (draft, tags_code) in zip(messages, drafts, strict=True):
            due_ms = _due_ms(message) if message.type is DELAY else 0
            dues.append(due_ms)
            if due_ms > now_ms:
                waiting.append((timed(draft, due_ms), tags_code, due_ms))
            else:
                plain.append((draft, tags_code))
        if waiting and len(self._timers) + len(waiting) > self._config.timers_max:
            raise ClientError(
                Code.TOO_MANY_REQUESTS,
                f"timers_max = {self._config.timers_max} delayed messages are waiting: send later, or recall some",
            )
        if len(drafts) > 1:
            self._store.log.make_room(sum([one.size for one, _ in plain]) + sum([one.size for one, *_ in waiting]))
        offsets = iter([self._store.append(topic, topic.queues[d.queue_id], d, code) for d, code in plain])
        number = self._store.append_timers(waiting) if waiting else 0
        results = []
        for message, (draft, _), due_ms in zip(messages, drafts, dues, strict=True):
            if due_ms > now_ms:
                results.append(SendResult(draft.queue_id, number, self._handle(message, number, due_ms)))
                number += 1
            else:
                results.append(SendResult(draft.queue_id, next(offsets)))
        return results

    def _handle(self, message: Outgoing, number: int, due_ms: int) -> str:
        return RecallHandle(message.topic, self._config.broker_name, due_ms, number, message.message_id).text()

    # -- agenda ------------------------------------------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """Wall time; None where nothing waits."""
        due_ms = self._timers.next_due_ms()
        if due_ms is None or not self._blocked_until_ms:
            return due_ms
        return max(due_ms, self._clock.wall_ms() + max(self._blocked_until_ms - self._clock.lease_ms(), 1))

    def tick(self, limit: int) -> None:
        """Delivers what is due, at most `limit` messages."""
        if self._blocked_until_ms > self._clock.lease_ms():
            return
        self._blocked_until_ms = 0
        now_ms = self._clock.wall_ms()
        try:
            while limit > 0:
                due_ms, numbers = self._timers.head(now_ms, limit)
                if not numbers:
                    return
                limit -= len(numbers)
                for number in numbers:
                    self._fire(number, due_ms)
        except (StoreFull, OSError) as error:
            self._blocked_until_ms = self._clock.lease_ms() + _RETRY_MS
            log_.warning("delayed messages that are due wait: %s", error)

    def _fire(self, first: int, due_ms: int) -> None:
        """Crash before the append is written: the timer waits, and fires after the start. After: it is gone."""
        kept = self.read(self._timers.current(first))
        properties = kept.decode_properties() if kept else {}
        topic = self._topics.find(properties.get(timers.REAL_TOPIC, ""))
        queue_id = int(properties.get(timers.REAL_QUEUE) or 0)
        if kept is None or topic is None or queue_id >= len(topic.queues):
            name = properties.get(timers.REAL_TOPIC, "a topic")
            why = "cannot be read" if kept is None else "its topic was deleted"
            log_.error("delayed message %d for %s is given up: %s", first, name, why)
            self._store.apply(TimerEnded(first, due_ms))
            return
        origin = Origin(kept.position, timers.TOPIC, 0, first, "")
        draft, tags_code = hidden.reveal(kept, properties, topic, queue_id, origin, timers.TIMER_PROPERTIES)
        self._store.append(topic, topic.queues[queue_id], draft, tags_code, origin, due_ms)

    def read(self, number: int) -> Record | None:
        """The timer's record, by its current number; None where it is lost, gone or not there yet."""
        return hidden.read(self._store, timers.TOPIC, number)

    # -- recall ------------------------------------------------------------------------------------------------------

    def recall(self, topic: str, text: str) -> Answer[str]:
        """See BrokerPort. Recalled stays OK until its time has passed: a client may ask again when no answer came."""
        handle = RecallHandle.parse(text)
        if handle.topic != topic or handle.broker != self._config.broker_name:
            raise _not_ours(f"of topic {handle.topic} on {handle.broker}")
        self._must_be(handle)
        waits = self._timers.waits(handle.number, handle.due_ms)
        passed_ms = self._clock.wall_ms() if waits else max(self._clock.wall_ms(), self._timers.fired_ms)
        if handle.due_ms <= passed_ms:
            raise ClientError(
                Code.PRECONDITION_FAILED,
                f"the delivery time of message {handle.message_id} has passed: it is delivered and cannot be recalled",
            )
        if waits:
            self._store.apply(TimerEnded(handle.number, handle.due_ms))
        return self._store.when_safe(handle.message_id)

    def _must_be(self, handle: RecallHandle) -> None:
        """The timer's record, while it is kept, is that of the handle's message. Raises ILLEGAL_MESSAGE_ID."""
        known = self._topics.find(timers.TOPIC)
        if known is None or handle.number >= known.queues[0].max_offset:
            raise _not_ours("of no message that is known")
        kept = self.read(self._timers.current(handle.number))
        properties = kept.decode_properties() if kept else None
        if properties is not None and (
            properties.get(timers.REAL_TOPIC) != handle.topic
            or properties.get("UNIQ_KEY") != handle.message_id
            or timers.due_of(properties) != handle.due_ms
        ):
            raise _not_ours("of another message")


def timed(draft: Draft, due_ms: int) -> Draft:
    """The record that waits in the timer topic, and says where the message goes."""
    return hidden.hide(draft, timers.TOPIC_BYTES, _OUT % timers.out_ms(due_ms))


def _due_ms(message: Outgoing) -> int:
    return timers.due_of({timers.DELIVER_MS: record.property_bytes(message.properties, _DELIVER_MS).decode()})


def first_number(number: int, properties: Mapping[str, str]) -> int:
    """The number that a timer goes by: its own, or the one that it was carried forward from."""
    origin = Origin.parse(properties.get(Origin.PROPERTY, ""))
    return origin.offset if origin is not None else number


def _not_ours(what: str) -> ClientError:
    return ClientError(Code.ILLEGAL_MESSAGE_ID, f"recall handle is {what}")
