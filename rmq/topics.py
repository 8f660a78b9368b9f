"""Topics: which there are, how they come to be, what they accept, which queue is next.

Profile dev: a topic is made at its first send or subscription and its route lists every type that we serve; its stored
type only records what came, and with priorities is the one that heeds them. Profile strict: as Apache 5.5, nothing is
made by a client and the type decides; a topic that is still without one gets that of its first message. The clients'
trace topic is made on first use in both.
"""

import logging

from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.message import DLQ_PREFIX, RETRY_PREFIX, TRACE_TOPIC, MessageType
from rmq.port import BrokerQueues
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.journal import TopicPut
from rmq_store.record import TOPIC_BYTES_MAX
from rmq_store.state import Topic
from rmq_store.store import Store

log_ = logging.getLogger("rmq.topics")
_PRIORITY = MessageType.PRIORITY.value
SERVED = (
    MessageType.NORMAL,
    MessageType.FIFO,
    MessageType.DELAY,
    MessageType.TRANSACTION,
    MessageType.PRIORITY,
    MessageType.LITE,
)


class Topics:
    """Policy over the store's table of topics."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._dev = config.profile == "dev"
        self._turns: dict[str, int] = {}  # round robin

    def find(self, name: str) -> Topic | None:
        """None where there is no such topic."""
        return self._store.state.topics.get(name)

    def require(self, name: str) -> Topic:
        """For a use that makes it in profile dev. Raises TOPIC_NOT_FOUND in profile strict."""
        topic = self.find(name)
        if topic is None:
            if not self._makes(name):
                raise self._missing(name)
            topic = self.make(name, MessageType.UNSPECIFIED, self._queues(name))
        return topic

    def _makes(self, name: str) -> bool:
        """Whether its first use makes it; the trace topic is there for every client, as where Apache's broker has
        traceTopicEnable.
        """
        return self._dev or name == TRACE_TOPIC

    def _queues(self, name: str) -> int:
        """Of a topic that its first use makes; Apache gives the trace topic one (facts: remoting.md 7)."""
        return 1 if name == TRACE_TOPIC else self._config.topic_queues

    def _missing(self, name: str) -> ClientError:
        return ClientError(
            Code.TOPIC_NOT_FOUND,
            f"No topic route info in name server for the topic: {name}. Profile strict makes no topic by itself: "
            f"run `rmq topic create {name} --type NORMAL`, or list it under topics: in the server's config.yaml",
        )

    def make(self, name: str, kind: MessageType, queues: int) -> Topic:
        """Makes a topic, or gives one more queues and another type. Raises ILLEGAL_TOPIC or FORBIDDEN at the limits."""
        topics = self._store.state.topics
        if len(name.encode()) > TOPIC_BYTES_MAX:
            raise ClientError(Code.ILLEGAL_TOPIC, f"topic name longer than {TOPIC_BYTES_MAX} bytes: {name}")
        if name not in topics and len(topics) >= self._config.topics_max:
            raise ClientError(
                Code.FORBIDDEN, f"no more than topics_max = {self._config.topics_max} topics: delete some"
            )
        known = topics.get(name)
        if known is None or known.type != kind.value or len(known.queues) < queues:
            self._store.apply(TopicPut(name, kind.value, queues))
        return topics[name]

    def route(self, name: str) -> BrokerQueues:
        """Raises TOPIC_NOT_FOUND in profile strict."""
        topic = self.find(name)
        if topic is None and not self._makes(name):
            raise self._missing(name)
        queues = len(topic.queues) if topic else self._queues(name)
        return BrokerQueues(self._config.broker_name, queues, queues, True, True, self._accepts(name, topic))

    def kind(self, name: str) -> MessageType:
        """The stored type; MIXED for a topic that profile dev has not made yet. Raises TOPIC_NOT_FOUND."""
        topic = self.find(name)
        if topic is None:
            if not self._makes(name):
                raise self._missing(name)
            return MessageType.MIXED
        return MessageType(topic.type)

    def _accepts(self, name: str, topic: Topic | None) -> tuple[MessageType, ...]:
        if self._dev or topic is None or _is_internal(name):
            return SERVED
        kind = MessageType(topic.type)
        return SERVED if kind in (MessageType.MIXED, MessageType.UNSPECIFIED) else (kind,)

    def known(self, name: str, kind: MessageType) -> Topic | None:
        """The short way of `admit`, for most sends: the topic, where it is of this very type."""
        topic = self._store.state.topics.get(name)
        return topic if topic is not None and topic.type == kind else None

    def admit(self, name: str, kinds: set[MessageType]) -> Topic:
        """The topic of a send of such messages. Raises, before anything changed, BAD_REQUEST,
        MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, and as require.
        """
        if MessageType.TRANSACTION in kinds and len(kinds) > 1:
            raise ClientError(
                Code.BAD_REQUEST, f"transactional and other messages in one request (topic {name}): send them apart"
            )
        topic = self.require(name)
        stored = MessageType(topic.type)
        if stored is MessageType.MIXED or kinds == {stored} or _is_internal(name):
            return topic
        if not self._dev and stored is not MessageType.UNSPECIFIED:
            came = " and ".join(sorted(kind.name for kind in kinds))
            raise ClientError(
                Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE,
                f"message type conflicts with topic {name}: expected {stored.name}, actual {came}",
            )
        return self._become(topic, {stored, *kinds} - {MessageType.UNSPECIFIED})

    def _become(self, topic: Topic, seen: set[MessageType]) -> Topic:
        """The type that has a place for all of these."""
        if MessageType.PRIORITY in seen and MessageType.FIFO not in seen:
            kind = MessageType.PRIORITY
        elif len(seen) == 1:
            (kind,) = seen
        else:
            kind = MessageType.MIXED
            if MessageType.PRIORITY in seen:
                log_.warning(
                    "topic %s holds FIFO messages as well: it is MIXED now, priority has no say in it", topic.name
                )
        return self.make(topic.name, kind, len(topic.queues))

    def must_take(self, name: str, kind: MessageType) -> None:
        """Raises MESSAGE_PROPERTY_CONFLICT_WITH_TYPE where profile strict lets no such message into the topic, and
        TOPIC_NOT_FOUND.
        """
        if not self._dev and self.kind(name) not in (kind, MessageType.MIXED):
            text = f"topic {name} is of type {self.kind(name).name}, not {kind.name}"
            raise ClientError(Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, text)

    def next_queue(self, topic: Topic) -> ConsumeQueue:
        """The queue of the next send, but for messages whose group or priority has a queue."""
        if topic.type == _PRIORITY:
            return topic.queues[0]
        turn = self._turns.get(topic.name, 0)
        self._turns[topic.name] = turn + 1
        return topic.queues[turn % len(topic.queues)]

    def forget(self, name: str) -> None:
        """It is about to be deleted: another of its name begins with its first queue."""
        self._turns.pop(name, None)


def _is_internal(name: str) -> bool:
    return name.startswith((RETRY_PREFIX, DLQ_PREFIX))
