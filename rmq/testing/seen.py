"""What a test sees of a server: messages, topics, groups, leases, as plain values; and how they are read.

`Views` holds what both kinds of servers show, over three questions that each kind answers in its own way. Looking takes
nothing from any group. Names are stored names (`ns%name` with a namespace).
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from rmq import message as m

if TYPE_CHECKING:
    from rmq_proto import admin as pb

PAGE_MESSAGES = 1000
LEASES_MAX = 1000  # as many as the admin service answers
BODY_BYTES_MAX = 64 << 20  # what a compressed body may grow to
_GZIP = b"\x1f\x8b"


class Message(msgspec.Struct, frozen=True):
    """A message as its producer sent it; of a compressed one, `body` is what it was before. Times are ms since 1970.

    `origin_topic` differs from `topic` for a dead letter only. `message_group` (FIFO) is empty and `delivery_ms`
    (delayed) is 0 where the producer gave none. `attempt` counts the deliveries that the record knows of.
    """

    topic: str
    body: bytes
    tag: str
    keys: tuple[str, ...]
    properties: Mapping[str, str]
    message_id: str
    message_group: str
    delivery_ms: int
    origin_topic: str
    queue_id: int
    offset: int
    born_ms: int
    stored_ms: int
    attempt: int

    @property
    def text(self) -> str:
        """The body as UTF-8. Raises UnicodeDecodeError."""
        return self.body.decode()


class Lease(msgspec.Struct, frozen=True):
    """A message that was delivered to a group and is not acknowledged.

    `due_ms`: when it may be delivered again, in ms since 1970 by the server's clock; 0: at once, nobody holds it.
    `attempt` counts its deliveries, `client_id` is whose lease the server renews, else empty.
    """

    topic: str
    queue_id: int
    offset: int
    message_id: str
    attempt: int
    due_ms: int
    client_id: str


class Topic(msgspec.Struct, frozen=True):
    """A topic; `messages` is how many can be read, `groups` are those that have a place in it."""

    name: str
    type: str
    queues: int
    messages: int
    groups: tuple[str, ...]


class Group(msgspec.Struct, frozen=True):
    """A consumer group over all its topics: how many messages it never got, and how many it got and did not settle."""

    name: str
    attempts_max: int
    new: int
    unacked: int
    clients: tuple[str, ...]


class Views(ABC):
    """What a test may look at. A name that is not there has nothing: empty, never an error."""

    @abstractmethod
    def _page(self, topic: str, offsets: Mapping[int, int] | None) -> "pb.PeekResponse | None":
        """Up to PAGE_MESSAGES messages, from the begin or from these offsets; None: there is no such topic."""

    @abstractmethod
    def _topics(self) -> "Sequence[pb.Topic]":
        """All."""

    @abstractmethod
    def _groups(self, name: str, leases: bool) -> "Sequence[pb.Group]":
        """All, or the one of this name where it is there."""

    def messages(self, topic: str) -> list[Message]:
        """Everything that was sent to the topic and is still stored, in the order in which it came."""
        found = [message_of(stored) for page in self._pages(topic) for stored in page.messages]
        return sorted(found, key=lambda message: message.stored_ms)

    def dead_letters(self, group: str) -> list[Message]:
        """What the group failed on too often, the oldest first."""
        return self.messages(m.DLQ_PREFIX + group)

    def leases(self, group: str) -> list[Lease]:
        """What the group got and did not acknowledge, up to 1000."""
        return [
            Lease(topic.topic, x.queue_id, x.offset, x.message_id, x.attempt, x.due_ms, x.client_id)
            for found in self._groups(group, True)
            for topic in found.topics
            for x in topic.leases
        ]

    def topics(self) -> dict[str, Topic]:
        """By name."""
        return {topic.name: _topic_of(topic) for topic in self._topics()}

    def groups(self) -> dict[str, Group]:
        """By name."""
        return {group.name: _group_of(group) for group in self._groups("", False)}

    def _pages(self, topic: str) -> "Iterator[pb.PeekResponse]":
        offsets: Mapping[int, int] | None = None
        while (page := self._page(topic, offsets)) is not None:
            yield page
            if offsets == page.next:
                return
            offsets = dict(page.next)


def message_of(stored: "pb.Message") -> Message:
    """From the admin service's form."""
    system = stored.system
    return Message(
        topic=stored.topic,
        body=inflate(stored.body) if stored.compressed else stored.body,
        tag=stored.tag,
        keys=tuple(stored.keys),
        properties=dict(stored.properties),
        message_id=stored.message_id,
        message_group=system.get(m.SHARDING_KEY, ""),
        delivery_ms=int(system.get(m.TIMER_DELIVER_MS, "0")),
        origin_topic=system.get(m.DLQ_ORIGIN_TOPIC, "") or stored.topic,
        queue_id=stored.queue_id,
        offset=stored.offset,
        born_ms=stored.born_ms,
        stored_ms=stored.stored_ms,
        attempt=stored.attempt,
    )


def inflate(body: bytes) -> bytes:
    """What a compressed body was: gRPC clients use gzip, Remoting clients zlib. What is neither stays as it is."""
    window_bits = zlib.MAX_WBITS + (16 if body.startswith(_GZIP) else 0)
    try:
        return zlib.decompressobj(window_bits).decompress(body, BODY_BYTES_MAX)
    except zlib.error:
        return body


def _topic_of(topic: "pb.Topic") -> Topic:
    count = sum(queue.max_offset - queue.min_offset for queue in topic.queues)
    return Topic(topic.name, topic.type, len(topic.queues), count, tuple(topic.groups))


def _group_of(group: "pb.Group") -> Group:
    new = sum(topic.lag_messages for topic in group.topics)
    unacked = sum(topic.leased + topic.ready for topic in group.topics)
    return Group(group.name, group.attempts_max, new, unacked, tuple(group.clients))
