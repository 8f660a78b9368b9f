"""Places of groups and edges of queues, for clients that keep count themselves: tell them, and move them.

There is one place per group, topic and queue, whoever moves it: a client that commits offsets or receives, or an
operator. So a commit settles all that lies before it, and one that goes back has messages delivered again.
"""

from collections.abc import Mapping

from rmq.errors import ClientError, Code
from rmq.groups import Groups
from rmq.pull import must_have
from rmq.scan import offset_at
from rmq.topics import Topics
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.journal import Acked, Cursors
from rmq_store.ledger import Subscription
from rmq_store.state import Topic
from rmq_store.store import Store

_SETTLED_AT_ONCE = 10_000  # offsets in one entry of the journal


class Offsets:
    """Over the store's queues and places."""

    def __init__(self, store: Store, topics: Topics, groups: Groups) -> None:
        self._store = store
        self._topics = topics
        self._groups = groups

    def update(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """See BrokerPort; the caller sees to it that polls are served, and waits until it is safe."""
        queue = self._queue(topic, queue_id)
        must_have(queue, offset)
        self._groups.require(group)
        go_on_at(self._store, self._store.state.leases.subscription(group, topic), {queue_id: offset})

    def committed(self, group: str, topic: str, queue_id: int) -> int:
        """See BrokerPort. What retention took counts as settled."""
        self._groups.view(group)
        queue = self._queue(topic, queue_id)
        subscription = self._store.state.leases.subscriptions.get((group, topic))
        ledger = subscription.ledgers.get(queue_id) if subscription else None
        if ledger is None:
            text = f"group {group} has no offset in queue {queue_id} of topic {topic} yet; begin where QueryOffset says"
            raise ClientError(Code.OFFSET_NOT_FOUND, text)
        return min(max(ledger.committed(), queue.min_offset), queue.visible)

    def query(self, topic: str, queue_id: int, *, end: bool, time_ms: int | None) -> int:
        """See BrokerPort."""
        queue = self._queue(topic, queue_id)
        if time_ms is not None:
            return offset_at(self._store, queue, time_ms)
        return queue.visible if end else queue.min_offset

    def _queue(self, topic: str, queue_id: int) -> ConsumeQueue:
        found = self._topics.find(topic)
        if found is None:
            raise ClientError(Code.TOPIC_NOT_FOUND, f"there is no topic {topic}")
        return require_queue(found, queue_id)


def require_queue(topic: Topic, queue_id: int) -> ConsumeQueue:
    """Raises NOT_FOUND. A route lists the ids; -1, "any queue", is for receives only."""
    if not 0 <= queue_id < len(topic.queues):
        text = f"topic {topic.name} has no queue {queue_id}: its queues are 0 to {len(topic.queues) - 1}"
        raise ClientError(Code.NOT_FOUND, text)
    return topic.queues[queue_id]


def go_on_at(store: Store, subscription: Subscription, offsets: Mapping[int, int]) -> None:
    """The group goes on at these offsets, by queue id; what it holds of these queues, wherever it lies now, is settled.

    Crash after the first entry: what was held is delivered again, once there and once from the place on, at most.
    Without it a place that goes back might stay where it was, and what was held be lost. The last entry is for a replay
    behind lost bytes of the log: there, what was settled moves the place.
    """
    places = Cursors(subscription.group, subscription.topic, list(offsets.items()), settles=True)
    store.apply(places)
    if _settle(store, subscription, offsets):
        store.apply(places)
    store.state.leases.woken[subscription] = None


def _settle(store: Store, subscription: Subscription, queue_ids: Mapping[int, object]) -> bool:
    """Whether anything was held."""
    settled = False
    for queue_id in queue_ids:
        held = subscription.ledger(queue_id).held()
        for at in range(0, len(held), _SETTLED_AT_ONCE):
            part = (queue_id, held[at : at + _SETTLED_AT_ONCE])
            store.apply(Acked(subscription.group, subscription.topic, [part]))
            settled = True
    return settled
