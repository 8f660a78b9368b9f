"""What went through the broker since it started, by topic and group: plain integers, one addition each.

Promises: counting costs well under a microsecond a call and makes no object after a topic's or group's first call; what
is deleted takes its numbers along. Sizes are those of the records in the log, as Apache counts them.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from rmq import message as m
from rmq.message import MessageType
from rmq_store.histogram import Histogram
from rmq_store.ledger import Subscription
from rmq_store.state import Topic

SIZE_BOUNDS_BYTES = (1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20)  # RIP-46: rocketmq_message_size

MIXED = MessageType.MIXED.value


class Incoming:
    """One topic's messages of one type."""

    __slots__ = ("kind", "sizes")

    def __init__(self, kind: int) -> None:
        self.kind = kind  # the number of the MessageType
        self.sizes = Histogram(SIZE_BOUNDS_BYTES)  # `total`: all their bytes


class Outgoing:
    """One group's messages of one topic. `again`: of those, the ones that had been delivered before."""

    __slots__ = ("acked", "again", "again_bytes", "buried", "messages", "messages_bytes")

    def __init__(self) -> None:
        self.messages = self.messages_bytes = 0
        self.again = self.again_bytes = 0
        self.acked = 0
        self.buried = 0  # became dead letters

    def took(self, messages: tuple[int, int], again: tuple[int, int]) -> None:
        """One receive's: numbers and bytes of all, and of those that had been delivered before."""
        self.messages += messages[0]
        self.messages_bytes += messages[1]
        self.again += again[0]
        self.again_bytes += again[1]


class Ended:
    """One topic's transactions."""

    __slots__ = ("checks", "committed", "rolled_back")

    def __init__(self) -> None:
        self.committed = self.rolled_back = self.checks = 0


class Traffic:
    """All counters of one broker."""

    def __init__(self) -> None:
        self._latest: dict[Topic, Incoming] = {}  # where the topic's last call was counted
        self._incoming: dict[str, dict[int, Incoming]] = {}  # by topic, by type
        self._outgoing: dict[Subscription, Outgoing] = {}
        self._transactions: dict[str, Ended] = {}  # by topic

    def sent(self, topic: Topic, messages: Sequence[m.Outgoing], size_bytes: int) -> None:
        """One call's messages are in the log, `size_bytes` all together: each counts as large as their average."""
        count = len(messages)
        found = self._latest.get(topic)
        if found is None or found.kind != topic.type:
            found = self._find(topic, messages)
        sizes = found.sizes  # as Histogram.add, without its frame
        sizes.counts[bisect_left(SIZE_BOUNDS_BYTES, size_bytes if count == 1 else size_bytes / count)] += count
        sizes.total += size_bytes

    def _find(self, topic: Topic, messages: Sequence[m.Outgoing]) -> Incoming:
        """A topic's type is its messages', but where it takes all types; a call's are of the first one's type."""
        kind = topic.type if topic.type != MIXED else messages[0].type.value
        kinds = self._incoming.setdefault(topic.name, {})
        found = kinds.get(kind)
        if found is None:
            found = kinds[kind] = Incoming(kind)
        self._latest[topic] = found
        return found

    def of(self, subscription: Subscription) -> Outgoing:
        """The counters of one group on one topic, to be added to."""
        found = self._outgoing.get(subscription)
        if found is None:
            found = self._outgoing[subscription] = Outgoing()
        return found

    def ended(self, topic: str, *, committed: bool) -> None:
        """A transaction."""
        found = self._transaction(topic)
        found.committed += committed
        found.rolled_back += not committed

    def checked(self, topic: str) -> None:
        """A producer was asked about a transaction."""
        self._transaction(topic).checks += 1

    def _transaction(self, topic: str) -> Ended:
        found = self._transactions.get(topic)
        if found is None:
            found = self._transactions[topic] = Ended()
        return found

    def transactions(self) -> Iterator[tuple[str, Ended]]:
        """By topic; others may come and go meanwhile."""
        return iter(list(self._transactions.items()))

    def incoming(self) -> Iterator[tuple[str, MessageType, Incoming]]:
        """Topic, type and counters; others may come and go meanwhile."""
        for topic, kinds in list(self._incoming.items()):
            for kind, found in list(kinds.items()):
                yield topic, MessageType(kind), found

    def outgoing(self, subscription: Subscription) -> Outgoing | None:
        """None where nothing was counted yet."""
        return self._outgoing.get(subscription)

    def forget_topic(self, topic: Topic) -> None:
        """It is about to be deleted."""
        self._incoming.pop(topic.name, None)
        self._latest.pop(topic, None)
        self._transactions.pop(topic.name, None)

    def forget(self, subscription: Subscription) -> None:
        """As forget_topic: it goes with its topic or its group."""
        self._outgoing.pop(subscription, None)
