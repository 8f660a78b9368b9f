"""Lite topics: who subscribes which, where each group goes on in them, how many there may be, and when they end.

A lite topic is made by its first message or subscription. A group's place in one outlives the subscription, so that a
client that comes back goes on where the group was. Both end with the lite topic: `lite_ttl_ms` after its last message,
or its making, and up to a minute later; but not while one of its messages is open, nor while somebody who subscribes it
has something to read. Who subscribes it then is told.

Subscriptions are kept: after a restart a client's receives go on, before it says again what it wants.

A group may be exclusive: then one client has a lite topic, the last that asked for it by name, and whoever had it is
told. What that one holds of it stays its own until it is settled or its time is over; only then the next one comes.
"""

from collections.abc import Collection, Iterable, Sequence

from rmq.clock import Clock
from rmq.config import Config, GroupFlags
from rmq.errors import ClientError, Code
from rmq.groups import flags_of
from rmq.litechange import LiteChange, change_of
from rmq.litereaders import LiteReaders
from rmq.message import MessageType
from rmq.pop import Pop
from rmq.port import Answer, ClientPort, LiteStart, LiteSync
from rmq.shard import queue_of
from rmq.topics import Topics
from rmq_store.journal import Acked, Cursors, LitePlaces, LitesDropped, LitesPut, LiteSubscribed
from rmq_store.ledger import Subscription
from rmq_store.lines import key_of
from rmq_store.lites import Lite, LiteGroup
from rmq_store.state import Topic
from rmq_store.store import Store

_LOOK_AGAIN_MS = 60_000  # at one that is over its time, and read still


class LiteTopics:
    """The verbs, and their part of the agenda. `clients`: who is told; nobody is before it is set."""

    def __init__(
        self, store: Store, topics: Topics, pop: Pop, readers: LiteReaders, clock: Clock, config: Config
    ) -> None:
        self._store = store
        self._lites = store.state.lites
        self._topics = topics
        self._pop = pop
        self._readers = readers
        self._clock = clock
        self._config = config
        self.clients: ClientPort | None = None
        if config.lite_ttl_ms:
            self._lites.watch(config.lite_ttl_ms)

    def subscribers(self) -> list[tuple[str, str]]:
        """(group, client) pairs that subscribe something."""
        groups = (group for groups in self._lites.groups.values() for group in groups.values())
        return [(group.group, client) for group in groups for client in group.clients]

    # -- send --------------------------------------------------------------------------------------------------------

    def queue_for(self, topic: Topic, name: str, fresh: set[int]) -> int:
        """The queue of a lite topic's messages. `fresh`: keys of those that this call makes. Raises
        LITE_TOPIC_QUOTA_EXCEEDED, ILLEGAL_LITE_TOPIC.
        """
        lite = self._find(topic.name, name)
        if lite is not None:
            return lite.queue_id
        fresh.add(key_of(topic.name, name))
        self._must_have_room(len(fresh))
        return queue_of(name, len(topic.queues))

    def _find(self, topic: str, name: str) -> Lite | None:
        lite = self._lites.get(key_of(topic, name))
        if lite is not None and (lite.topic, lite.name) != (topic, name):
            text = f"lite topic {name} of {topic} has the same key as {lite.name} of {lite.topic}: choose another name"
            raise ClientError(Code.ILLEGAL_LITE_TOPIC, text)
        return lite

    def _must_have_room(self, count: int) -> None:
        if count and len(self._lites) + count > self._config.lite_topics_max:
            text = f"there are lite_topics_max = {self._config.lite_topics_max} lite topics: use those, or wait"
            raise ClientError(Code.LITE_TOPIC_QUOTA_EXCEEDED, text)

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def sync(self, sync: LiteSync) -> Answer[None]:
        """See BrokerPort."""
        if len(sync.names) > self._config.lite_subscriptions_max:  # before anything is done for each
            raise self._too_many()
        self._topics.must_take(sync.topic, MessageType.LITE)
        topic = self._topics.require(sync.topic)
        home = self._pop.subscription(sync.group, topic)
        reader = self._readers.of(home, sync.client_id)
        if sync.version is not None and sync.version < reader.version:
            return self._store.when_safe(None)
        named = {key_of(sync.topic, name): name for name in sync.names}
        mine = self._subscribed(sync)
        change = change_of(sync.action, named, mine, self._others(sync, named))
        if len(mine) + len(change.added) - len(change.removed) > self._config.lite_subscriptions_max:
            raise self._too_many()
        self._make(topic, change.placed.values())
        self._bind(home, topic)
        self._go_on(home, topic, sync, change)
        self._subscribe(sync, change)
        reader.version = sync.version or reader.version
        return self._store.when_safe(None)

    def _rules(self, group: str) -> GroupFlags:
        return flags_of(self._store.state.groups[group])

    def _subscribed(self, sync: LiteSync) -> Collection[int]:
        """What the client subscribes."""
        group = self._lites.group(sync.group, sync.topic)
        return group.clients.get(sync.client_id, {}) if group is not None else ()

    def _others(self, sync: LiteSync, named: Iterable[int]) -> dict[int, Sequence[str]]:
        """Who else of an exclusive group subscribes what the call names."""
        group = self._lites.group(sync.group, sync.topic)
        if group is None or not self._rules(sync.group).lite_exclusive:
            return {}
        alone = (sync.client_id,)
        shared = [(key, clients) for key in named if (clients := _clients(group, key)) and clients != alone]
        return {key: [client for client in clients if client != sync.client_id] for key, clients in shared}

    def _too_many(self) -> ClientError:
        text = f"a client subscribes lite_subscriptions_max = {self._config.lite_subscriptions_max} lite topics at most"
        return ClientError(Code.LITE_SUBSCRIPTION_QUOTA_EXCEEDED, f"{text}: unsubscribe some")

    def _make(self, topic: Topic, names: Iterable[str]) -> None:
        """All of them, or none."""
        fresh = [name for name in names if self._find(topic.name, name) is None]
        self._must_have_room(len(fresh))
        now_ms, queues = self._clock.wall_ms(), len(topic.queues)
        if fresh:
            self._store.apply(LitesPut(topic.name, [(name, queue_of(name, queues), 0, now_ms) for name in fresh]))

    def _bind(self, home: Subscription, topic: Topic) -> None:
        """From now on the group reads this topic so: what it had not read before is read by its lite topic, or not."""
        if not home.lite:
            ends = [(queue.queue_id, queue.visible) for queue in topic.queues]
            self._store.apply(LitePlaces(home.group, home.topic, []))  # first: it tells how what follows is meant
            self._store.apply(Cursors(home.group, home.topic, ends))
            self._pop.subscription(home.group, topic)  # a topic's priorities have no say here

    def _go_on(self, home: Subscription, topic: Topic, sync: LiteSync, change: LiteChange) -> None:
        """Where the group goes on in what the call names."""
        rules, again = self._rules(sync.group), set[int]()
        if rules.lite_reset_on_takeover and sync.start.kind == "last":
            again.update(change.taken)
        if rules.lite_reset_on_unsubscribe and sync.action == "remove":
            again.update(key for key in change.removed if self._lites.get(key) is not None)
        self._place(home, topic, [key for key in change.placed if key not in again], sync.start)
        self._place(home, topic, again, LiteStart("min"))

    def _subscribe(self, sync: LiteSync, change: LiteChange) -> None:
        """Crash in between: what is taken over is nobody's until the call, which nobody answered, comes again."""
        lost: dict[str, list[int]] = {}
        for key, clients in change.taken.items():
            for client in clients:
                lost.setdefault(client, []).append(key)
        for client, keys in lost.items():
            self._store.apply(LiteSubscribed(sync.group, sync.topic, client, [], keys))
        if change.added or change.removed:
            mine = LiteSubscribed(sync.group, sync.topic, sync.client_id, list(change.added), list(change.removed))
            self._store.apply(mine)
        group = self._lites.group(sync.group, sync.topic)
        assert group is not None
        for key in (*change.placed, *change.removed):
            self._readers.tell(group, key)
        self._notify((client, change.placed[key]) for client, keys in lost.items() for key in keys)
        self._notify((sync.client_id, name) for name in change.refused.values())

    def _notify(self, ended: Iterable[tuple[str, str]]) -> None:
        """Clients, and the lite topics that they do not subscribe any more."""
        for client, name in ended:
            if self.clients is not None:
                self.clients.unsubscribe_lite(client, name)

    def _place(self, home: Subscription, topic: Topic, keys: Iterable[int], start: LiteStart) -> None:
        group = self._lites.group(home.group, home.topic)
        assert group is not None
        places: list[tuple[int, int]] = []
        for key in keys:
            lite = self._lites.get(key)
            assert lite is not None
            known = key in group.places
            if start.kind != "last" or not known:
                places.append((key, self._offset(topic, lite, start)))
            if start.kind != "last" and known:
                self._settle(home, lite)
        if places:
            self._store.apply(LitePlaces(home.group, home.topic, places, settles=True))

    def _settle(self, home: Subscription, lite: Lite) -> None:
        """The group goes on elsewhere: what it holds of the lite topic is done."""
        lines = home.ledger(lite.queue_id).lines
        count = lines.length(lite.key) if lines is not None else 0
        if lines is not None and count:
            offsets = [lines.at(lite.key, place) for place in range(count)]
            self._store.apply(Acked(home.group, home.topic, [(lite.queue_id, offsets)]))

    def _offset(self, topic: Topic, lite: Lite, start: LiteStart) -> int:
        """The queue offset that a start means."""
        queue = topic.queues[lite.queue_id]
        self._lites.cut(lite, queue.min_offset)
        count = len(lite.offsets)
        match start.kind:
            case "min":
                at = 0
            case "offset":
                at = max(start.value - lite.first, 0)
            case "tail":
                at = max(count - max(start.value, 0), 0)
            case "time":
                at = self._at_time(lite, start.value)
            case _:
                at = count
        return lite.offsets[at] if at < count else queue.max_offset

    def _at_time(self, lite: Lite, time_ms: int) -> int:
        """The place in its list of the first message stored then or later; a lost one counts as older."""
        low, high = 0, len(lite.offsets)
        while low < high:
            middle = (low + high) // 2
            kept = self._store.read_message(lite.topic, lite.queue_id, lite.offsets[middle])
            if kept is not None and kept.store_ms >= time_ms:
                high = middle
            else:
                low = middle + 1
        return low

    def gone(self, group: str, client: str) -> None:
        """A client is no more: its subscriptions end, the group's places stay."""
        for topic in list(self._lites.groups):
            known = self._lites.group(group, topic)
            if known is not None and client in known.clients:
                self._store.apply(LiteSubscribed(group, topic, client, [], list(known.clients[client])))
        self._readers.gone(group, client)

    # -- agenda ------------------------------------------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """Wall time; None where none will end."""
        return self._lites.due.next_due_ms()

    def tick(self, limit: int) -> None:
        """Ends those that are over their time, looking at `limit` at most."""
        now_ms = self._clock.wall_ms()
        ended: list[Lite] = []
        for key in self._lites.due.pop_due(now_ms, limit):
            lite = self._lites.get(key)
            if lite is None:
                continue
            due_ms = lite.touched_ms + self._config.lite_ttl_ms
            if due_ms > now_ms:
                self._lites.set_due(lite, due_ms)
            elif any(self._is_read(group, lite) for group in self._lites.of_topic(lite.topic)):
                self._lites.set_due(lite, now_ms + _LOOK_AGAIN_MS)
            else:
                ended.append(lite)
        if ended:
            self._end(ended)

    def _is_read(self, group: LiteGroup, lite: Lite) -> bool:
        """Something of it is open, or to be read by a client that is there."""
        place = group.places.get(lite.key)
        if place is None:
            return False
        lines = self._store.state.leases.subscription(group.group, group.topic).ledger(lite.queue_id).lines
        if lines is not None and lines.length(lite.key):
            return True
        queue = self._store.state.queue(lite.topic, lite.queue_id)
        start = max(place.next, queue.min_offset if queue is not None else 0)
        return bool(place.clients) and lite.next(start) is not None

    def _end(self, lites: Sequence[Lite]) -> None:
        told = [
            (client, lite.name)
            for lite in lites
            for group in self._lites.of_topic(lite.topic)
            for client in _clients(group, lite.key)
        ]
        self._store.apply(LitesDropped([lite.key for lite in lites]))
        self._notify(told)


def _clients(group: LiteGroup, key: int) -> tuple[str, ...]:
    place = group.places.get(key)
    return place.clients if place is not None else ()
