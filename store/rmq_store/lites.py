"""Lite topics: cheap sub-topics of a parent topic, and who reads which of them, from where on.

A message of a lite topic is one of its parent's, in one of the parent's queues, always the same one; property
__LITE_TOPIC names the lite topic. What is kept besides is a packed list of queue offsets for each:

    parent, queue 3      0  1  2  3  4  5  6  7 ...       (consumequeue.py)
    lite topic `a`          1     3        6              numbers 0, 1, 2 of `a`
    lite topic `b`       0     2     4  5                 numbers 0 to 3 of `b`

A group has a *place* in each lite topic that a client of it ever subscribed: the queue offset that it goes on at. What
was delivered and is not settled is in the lite topic's line (lines.py), so there is order, and nothing of a lite topic
comes before what is before it is settled.

Lite topics are known by a key, a hash of both names (lines.key_of): of a line, a place, a timer and a journal entry.
Whoever makes one refuses a name whose key is another's.

Tables and their transitions, the same ones live and in replay. No clock, no log, no policy. A lite topic with a few
messages and one subscriber takes about 900 bytes (tests/store/test_lites.py).
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping

from rmq_store import halves, timers
from rmq_store.journal import LitePlaces, LitesDropped, LitesPut, LiteSubscribed
from rmq_store.lines import key_of
from rmq_store.wheel import Wheel

PROPERTY = "__LITE_TOPIC"
PROPERTY_BYTES = PROPERTY.encode()
CHUNK_BITS = 9  # numbers in one pair of the checkpoint
_GRAIN_MS = 60_000  # timers that share a due time take 8 bytes, others 100
_HIDDEN = (timers.TOPIC, halves.TOPIC)


class Lite:
    """One lite topic. `first`: the number of the oldest message that is still listed; `touched_ms`: wall time of the
    last message, or of the making.
    """

    __slots__ = ("first", "key", "name", "offsets", "queue_id", "saved", "topic", "touched_ms")

    def __init__(self, topic: str, name: str, key: int, queue_id: int, first: int, touched_ms: int) -> None:
        self.topic = topic
        self.name = name
        self.key = key
        self.queue_id = queue_id
        self.first = first
        self.touched_ms = touched_ms
        self.offsets = array("q")
        self.saved = first  # the checkpoint has the messages below this number

    @property
    def end(self) -> int:
        """The number of the next message."""
        return self.first + len(self.offsets)

    def next(self, offset: int) -> int | None:
        """The first listed queue offset from `offset` on."""
        at = bisect_left(self.offsets, offset)
        return self.offsets[at] if at < len(self.offsets) else None

    def number_of(self, offset: int) -> int:
        """The number of the first message from a queue offset on."""
        return self.first + bisect_left(self.offsets, offset)


class Place:
    """A group's, in one lite topic. `next`: the queue offset that it goes on at; `clients`: who subscribes it."""

    __slots__ = ("clients", "next")

    def __init__(self, next_offset: int = 0) -> None:
        self.next = next_offset
        self.clients: tuple[str, ...] = ()


class LiteGroup:
    """A group that reads a parent topic by its lite topics."""

    __slots__ = ("clients", "group", "places", "topic")

    def __init__(self, group: str, topic: str) -> None:
        self.group = group
        self.topic = topic
        self.places: dict[int, Place] = {}
        self.clients: dict[str, dict[int, None]] = {}  # keys of what each subscribes


class Lites:
    """All lite topics, by key, and all groups that read them.

    `unseen`: by parent and queue, (queue offset, key) of messages that were appended since somebody looked. `due`:
    keys, by wall time, once `watch` was told the time to live; who takes one out of it sees to its end.
    """

    def __init__(self) -> None:
        self._all: dict[int, Lite] = {}
        self.groups: dict[str, dict[str, LiteGroup]] = {}  # parent -> group
        self.unseen: dict[tuple[str, int], deque[tuple[int, int]]] = {}
        self.due = Wheel()
        self._ttl_ms = 0
        self.dirty: dict[int, None] = {}
        self.dirty_places: dict[tuple[str, str, int], None] = {}
        self.bound: dict[tuple[str, str], None] = {}  # since the last checkpoint
        self.gone: list[tuple[int, int, int]] = []  # key, and the chunks that the checkpoint is to forget: from, to

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Lite]:
        """All of them; nothing may be made or dropped meanwhile."""
        return iter(self._all.values())

    def keys(self) -> Iterator[int]:
        """Of all."""
        return iter(self._all)

    def get(self, key: int) -> Lite | None:
        """None where there is none."""
        return self._all.get(key)

    def group(self, group: str, topic: str) -> LiteGroup | None:
        """None where the group does not read the topic by its lite topics."""
        return self.groups.get(topic, {}).get(group)

    def of_topic(self, topic: str) -> Iterator[LiteGroup]:
        """Groups that read this parent so."""
        return iter(self.groups.get(topic, {}).values())

    def watch(self, ttl_ms: int) -> None:
        """From now on each is due `ttl_ms` after it was made, or touched as far as that is known, or up to a minute
        later.
        """
        self._ttl_ms = ttl_ms
        self.due.clear()
        for lite in self._all.values():
            self.set_due(lite, lite.touched_ms + ttl_ms)

    def set_due(self, lite: Lite, due_ms: int) -> None:
        """Somebody looks at it then, or up to a minute later."""
        self.due.add(due_ms - due_ms % -_GRAIN_MS, lite.key)

    # -- transitions -------------------------------------------------------------------------------------------------

    def put(self, topic: str, name: str, queue_id: int, offset: int, stored_ms: int) -> None:
        """A message of a lite topic is in the log."""
        lite = self._make(topic, name, queue_id, 0, stored_ms)
        if lite.queue_id != queue_id:  # the topic grew and the lite topic was forgotten in between, in lost bytes
            self._cut(lite, len(lite.offsets))
            lite.queue_id = queue_id
        if lite.offsets and offset <= lite.offsets[-1]:
            return
        lite.offsets.append(offset)
        lite.touched_ms = max(lite.touched_ms, stored_ms)
        self.dirty[lite.key] = None
        self.unseen.setdefault((topic, queue_id), deque()).append((offset, lite.key))

    def _make(self, topic: str, name: str, queue_id: int, first: int, touched_ms: int) -> Lite:
        key = key_of(topic, name)
        lite = self._all.get(key)
        if lite is None:
            lite = self._all[key] = Lite(topic, name, key, queue_id, first, touched_ms)
            self.dirty[key] = None
            if self._ttl_ms:
                self.set_due(lite, touched_ms + self._ttl_ms)
        return lite

    def cut(self, lite: Lite, offset: int) -> None:
        """Messages before a queue offset are gone."""
        if lite.offsets and lite.offsets[0] < offset:
            self._cut(lite, bisect_left(lite.offsets, offset))

    def _cut(self, lite: Lite, count: int) -> None:
        self.gone.append((lite.key, lite.first >> CHUNK_BITS, (lite.first + count) >> CHUNK_BITS))
        del lite.offsets[:count]
        lite.first += count
        lite.saved = max(lite.saved, lite.first)
        self.dirty[lite.key] = None

    def apply_put(self, change: LitesPut) -> None:
        """They are there; each had at least so many messages before those that follow in the log."""
        for name, queue_id, number, touched_ms in change.lites:
            lite = self._make(change.topic, name, queue_id, number, touched_ms)
            lite.first = max(lite.first, number - len(lite.offsets))
            lite.saved = max(lite.saved, lite.first)
            lite.touched_ms = max(lite.touched_ms, touched_ms)
            self.dirty[lite.key] = None

    def apply_dropped(self, change: LitesDropped) -> None:
        """They are no more, nor is anyone's place in them."""
        for key in change.keys:
            lite = self._all.pop(key, None)
            if lite is None:
                continue
            self.gone.append((key, lite.first >> CHUNK_BITS, (lite.end >> CHUNK_BITS) + 1))
            self.dirty[key] = None
            for group in self.groups.get(lite.topic, {}).values():
                place = group.places.pop(key, None)
                for client in place.clients if place is not None else ():
                    self._leave(group, client, key)
                if place is not None:
                    self.dirty_places[group.group, group.topic, key] = None

    def apply_places(self, change: LitePlaces) -> None:
        """The group reads the parent by its lite topics, and goes on there."""
        group = self._bind(change.group, change.topic)
        for key, next_offset in change.places:
            self._place(group, key).next = next_offset

    def _bind(self, name: str, topic: str) -> LiteGroup:
        groups = self.groups.setdefault(topic, {})
        found = groups.get(name)
        if found is None:
            found = groups[name] = LiteGroup(name, topic)
            self.bound[name, topic] = None
        return found

    def _place(self, group: LiteGroup, key: int) -> Place:
        place = group.places.get(key)
        if place is None:
            place = group.places[key] = Place()
        self.dirty_places[group.group, group.topic, key] = None
        return place

    def apply_subscribed(self, change: LiteSubscribed) -> None:
        """What one client subscribes, less and more."""
        group = self._bind(change.group, change.topic)
        for key in change.removed:
            place = group.places.get(key)
            if place is not None and change.client in place.clients:
                place.clients = tuple(client for client in place.clients if client != change.client)
                self.dirty_places[group.group, group.topic, key] = None
            self._leave(group, change.client, key)
        for key in change.added:
            place = self._place(group, key)
            if change.client not in place.clients:
                place.clients += (change.client,)
            group.clients.setdefault(change.client, {})[key] = None

    def _leave(self, group: LiteGroup, client: str, key: int) -> None:
        mine = group.clients.get(client, {})
        mine.pop(key, None)
        if not mine:
            group.clients.pop(client, None)

    def drop_topic(self, topic: str) -> None:
        """The parent is deleted. The next checkpoint replaces all."""
        for key in [key for key, lite in self._all.items() if lite.topic == topic]:
            del self._all[key]
        self.groups.pop(topic, None)
        for place in [place for place in self.unseen if place[0] == topic]:
            del self.unseen[place]

    def drop_group(self, name: str) -> None:
        """A group is deleted. As above."""
        for groups in self.groups.values():
            groups.pop(name, None)

    # -- after a loss ------------------------------------------------------------------------------------------------

    def ends(self) -> Iterator[tuple[str, int, int]]:
        """Topic, queue and offset of each place. Where nothing is known of the lite topic any more, its messages are
        lost: the group goes on at the first one that comes.
        """
        for topic, groups in self.groups.items():
            for group in groups.values():
                for key, place in group.places.items():
                    lite = self._all.get(key)
                    if lite is not None:
                        yield topic, lite.queue_id, place.next
                    elif place.next:
                        place.next = 0
                        self.dirty_places[group.group, topic, key] = None

    # -- checkpoint --------------------------------------------------------------------------------------------------

    def restore(self, topic: str, name: str, queue_id: int, first: int, touched_ms: int) -> None:
        """From a checkpoint; its messages follow."""
        self._make(topic, name, queue_id, first, touched_ms)

    def restore_offsets(self, key: int, number: int, data: bytes) -> None:
        """A chunk that begins with message `number`; chunks come in order."""
        lite = self._all[key]
        offsets = array("q", data)
        lite.offsets += offsets[max(lite.first - number, 0) :]
        lite.saved = lite.end

    def restore_group(self, group: str, topic: str) -> None:
        """A group that reads a topic so."""
        self._bind(group, topic)

    def restore_place(self, group: str, topic: str, key: int, next_offset: int, clients: list[str]) -> None:
        """A group's place."""
        found = self._bind(group, topic)
        place = self._place(found, key)
        place.next, place.clients = next_offset, tuple(clients)
        for client in clients:
            found.clients.setdefault(client, {})[key] = None

    def forget_changes(self) -> None:
        """What was just loaded or saved is no change."""
        for key in self.dirty:
            if (lite := self._all.get(key)) is not None:
                lite.saved = lite.end
        self.dirty.clear()
        self.dirty_places.clear()
        self.bound.clear()
        self.gone.clear()


def name_in(topic: str, properties: Mapping[str, str]) -> str:
    """The lite topic of a record; empty for none: one that waits for its time, or stands for a delivered one."""
    if topic.startswith("%") or topic in _HIDDEN:
        return ""
    return properties.get(PROPERTY, "")
