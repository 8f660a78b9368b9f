"""What the server knows of one message, for people: where it is stored, and what each group has made of it. Only looks.

What is told is the state of now. When a message was delivered or acknowledged is in the journal's records, which no
index leads to: who wants that reads a stopped store (`rmq store dump`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from rmq import message as m
from rmq.adminport import Holding, Kept, Whereabouts
from rmq.browse import Browser, origin_topic
from rmq.deadletters import REPLAYS
from rmq.delay import first_number
from rmq.errors import ClientError, Code
from rmq_store import halves, timers
from rmq_store.ledger import Ledger
from rmq_store.record import Record
from rmq_store.store import Store

COPIES_MAX = 100
COPIES_BYTES_MAX = 16 << 20  # of their bodies: four of the largest
TOPICS_SEARCHED_MAX = 1000  # a look-up for each of them in every file of the key index: a millisecond a file


class Finder:
    """Over the store's key index and its tables."""

    def __init__(self, store: Store, browser: Browser) -> None:
        self._state = store.state
        self._browser = browser

    def copies(self, message_id: str, topic: str) -> "asyncio.Future[Sequence[Kept]]":
        """See AdminPort."""
        if not message_id.strip():
            raise ClientError(Code.BAD_REQUEST, "name a message id")
        names = [*self._browser.copies(topic), timers.TOPIC] if topic else self._all()
        pairs = [(name, message_id) for name in names]
        return self._browser.search(pairs, _is(message_id, topic), COPIES_MAX, COPIES_BYTES_MAX)

    def _all(self) -> Sequence[str]:
        topics = self._state.topics
        if len(topics) > TOPICS_SEARCHED_MAX:
            text = f"there are {len(topics)} topics, more than can be searched at once: name the message's topic"
            raise ClientError(Code.BAD_REQUEST, text)
        return [name for name in topics if name != halves.TOPIC]  # half messages are seen by nobody

    def whereabouts(self, copy: Kept) -> Whereabouts:
        """See AdminPort."""
        if copy.topic == timers.TOPIC:
            due_ms = timers.due_of(copy.properties)
            first = first_number(copy.offset, copy.properties)
            waits = self._state.timers.waits(first, due_ms) and self._state.timers.current(first) == copy.offset
            return Whereabouts(_sent_to(copy.topic, copy.properties), due_ms if waits else 0, [])
        found = self._state.leases.by_topic.get(copy.topic, {})
        holdings = [
            _holding(group, found[group].ledgers.get(copy.queue_id), copy.offset)
            for group in sorted(found)
            if group != REPLAYS
        ]
        return Whereabouts(_sent_to(copy.topic, copy.properties), 0, holdings)


def _is(message_id: str, topic: str) -> Callable[[Record], bool]:
    def accept(found: Record) -> bool:
        properties = found.decode_properties()
        return properties.get(m.UNIQ_KEY) == message_id and topic in ("", _sent_to(found.topic, properties))

    return accept


def _sent_to(stored_in: str, properties: Mapping[str, str]) -> str:
    """The topic that it was sent to, where it lies in one of the server's own now."""
    if stored_in == timers.TOPIC:
        return properties.get(timers.REAL_TOPIC, "")
    return origin_topic(properties) or stored_in


def _holding(group: str, ledger: Ledger | None, offset: int) -> Holding:
    if ledger is None:
        return Holding(group, "WAITING")
    found = ledger.find(offset)
    if found is None:
        return Holding(group, _untaken(ledger, offset))
    if found.lease is not None:
        lease = found.lease
        return Holding(group, "LEASED", found.attempt, lease.taken_ms, lease.due_ms, lease.client)
    named, at = ledger.origins.get(offset, (ledger, offset))
    early = named.lines is not None and at in named.lines.early
    return Holding(group, "ACKED" if early else "READY", found.attempt)


def _untaken(ledger: Ledger, offset: int) -> str:
    """Of one that is not open."""
    key = ledger.key(offset)
    if offset >= ledger.next or (key is not None and ledger.is_front(key, offset)):
        return "WAITING"
    return "SETTLED" if key is None else "PARKED"
