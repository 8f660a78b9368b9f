"""Everything that is derived from the log: topics with their queues, groups, leases, timers, half messages, lite
topics. One transition, live and in replay.

`apply` is called for each journal entry, in log order, when it is made and again in a replay: the state after a crash
is the replay of the log up to its end, by construction.
"""

from rmq_store import halves, journal, timers
from rmq_store.consumequeue import ConsumeQueue, QueueFiles
from rmq_store.halves import Halves
from rmq_store.journal import Change, GroupPut, QueueEnds, TopicPut
from rmq_store.leases import Leases
from rmq_store.ledger import Open
from rmq_store.lites import Lites
from rmq_store.timers import Timers


class Topic:
    """A topic and its queues. `type` is opaque here; so is why it was made."""

    __slots__ = ("name", "name_bytes", "queues", "type")

    def __init__(self, name: str, type_: int) -> None:
        self.name = name
        self.name_bytes = name.encode()
        self.type = type_
        self.queues: list[ConsumeQueue] = []


class State:
    """The tables. `dirty_*`: names whose entry changed since the last checkpoint."""

    def __init__(self, files: QueueFiles) -> None:
        self.files = files
        self.topics: dict[str, Topic] = {}
        self.groups: dict[str, GroupPut] = {}
        self.leases = Leases()
        self.timers = Timers()
        self.halves = Halves()
        self.lites = Lites()
        self.start_number = 0
        self.sequence_floor = 0  # the highest delivery sequence that replay saw
        self.state_complete: set[int] = set()  # bases of segments whose state records are closed
        self.dirty_topics: set[str] = set()
        self.dirty_groups: set[str] = set()
        self.dirty_queues: dict[ConsumeQueue, None] = {}
        self.stale_folders: list[str] = []  # of dropped topics' queues: emptied before the next checkpoint is written
        self.stale_files: list[str] = []  # that retention dropped from queues: deleted once a checkpoint knows it
        self.rewrite = False  # the next checkpoint replaces all: something was dropped

    def apply(self, change: Change) -> None:
        """One journal entry; applying it twice is the same as once."""
        match change:
            case journal.Leased():
                self.leases.apply_leased(change)
                self.sequence_floor = max(self.sequence_floor, change.sequence)
            case journal.Grouped():
                self.leases.apply_grouped(change)
            case journal.Acked():
                self.leases.apply_acked(change)
            case journal.Extended():
                self.leases.apply_extended(change)
                self.sequence_floor = max(self.sequence_floor, change.sequence)
            case journal.Cursors():
                self.leases.apply_cursors(change)
            case journal.TopicPut():
                self._put_topic(change)
            case journal.QueueEnds():
                self._skip_to(change)
            case journal.TopicDrop():
                self._drop_topic(change.name)
            case journal.GroupPut():
                self.groups[change.name] = change
                self.dirty_groups.add(change.name)
            case journal.GroupDrop():
                self.groups.pop(change.name, None)
                self.dirty_groups.add(change.name)
                self.leases.drop_group(change.name)
                self.lites.drop_group(change.name)
                self.rewrite = True
            case journal.TimerEnded():
                self.timers.ended(change.number, change.due_ms)
            case journal.TimersFired():
                self.timers.fired_ms = max(self.timers.fired_ms, change.due_ms)
            case journal.HalfChecked():
                self.halves.checked(change.number, change.due_ms, change.checks)
            case journal.HalfEnded():
                self.halves.rolled_back(change.number)
            case journal.HalfOutcomes():
                self.halves.repeat(change.chunk, change.ends)
            case journal.LitesPut():
                self.lites.apply_put(change)
            case journal.LitesDropped():
                self.lites.apply_dropped(change)
            case journal.LitePlaces():
                self.lites.apply_places(change)
                self.leases.subscription(change.group, change.topic).lite = True
            case journal.LiteSubscribed():
                self.lites.apply_subscribed(change)
                self.leases.subscription(change.group, change.topic).lite = True
            case journal.Started():
                self.start_number = max(self.start_number, change.number)
            case journal.StateEnd():
                self.state_complete.add(change.base)

    def _put_topic(self, change: TopicPut) -> None:
        topic = self.topics.get(change.name)
        if topic is None:
            topic = self.topics[change.name] = Topic(change.name, change.kind)
        topic.type = change.kind
        self._grow(topic, change.queues)
        self.dirty_topics.add(change.name)

    def _grow(self, topic: Topic, queues: int) -> None:
        while len(topic.queues) < queues:
            topic.queues.append(ConsumeQueue(self.files, topic.name, len(topic.queues)))

    def _skip_to(self, change: QueueEnds) -> None:
        topic = self.topics.get(change.topic)
        for queue, end in zip(topic.queues if topic else (), change.ends, strict=False):
            if queue.max_offset < end:
                queue.skip_to(end)
                self.dirty_queues[queue] = None

    def _drop_topic(self, name: str) -> None:
        topic = self.topics.pop(name, None)
        self.leases.drop_topic(name)
        self.lites.drop_topic(name)
        if name == timers.TOPIC:
            self.timers.clear()
        elif name == halves.TOPIC:
            self.halves.clear()
        self.dirty_topics.add(name)
        for queue in topic.queues if topic else ():
            self.dirty_queues.pop(queue, None)
            queue.forget()
            self.stale_folders.append(queue.folder)
        self.rewrite = True

    def queue(self, topic: str, queue_id: int) -> ConsumeQueue | None:
        """None where there is no such queue."""
        found = self.topics.get(topic)
        return found.queues[queue_id] if found is not None and queue_id < len(found.queues) else None

    def index(self, queue: ConsumeQueue, offset: int, position: int, size: int, tags_code: int) -> None:
        """A message is in the log: its queue points to it."""
        queue.append(offset, position, size, tags_code)
        self.dirty_queues[queue] = None

    def settle_origin(self, origin: "Origin", topic: str, queue_id: int, offset: int, due_ms: int) -> None:
        """A record says that it stands for another one. A timer's: it fired, or was carried forward. A half message's:
        it was committed, or carried forward. Another message of a group: that one is done, or lives on here. `due_ms`:
        timers.due_of its properties.
        """
        if origin.topic == halves.TOPIC:
            if topic == halves.TOPIC:
                self.halves.carried(origin.offset, offset)
            else:
                self.halves.committed(origin.offset)
            return
        if origin.topic == timers.TOPIC:
            if topic == timers.TOPIC:
                self.timers.put(offset, due_ms, origin.offset)
            else:
                self.timers.fired(origin.offset, due_ms)
            return
        ledger = self.leases.subscription(origin.group, origin.topic).ledger(origin.queue_id)
        if not origin.attempt:
            self.leases.settle(ledger, origin.offset, final=True)
            return
        to = self.leases.subscription(origin.group, topic).ledger(queue_id)
        self.leases.move(ledger, origin.offset, to, offset, Open(to, offset, origin.attempt - 1, None))


class Origin:
    """Property RMQ_ORIGIN: `position@topic@queue@offset@group@attempt`, in a record that stands for another message.

    Attempt 0: the origin is done for the group. Else it lives on in this record, and its next delivery is that attempt.
    A timer's or half message's origin has its first number for an offset, and no group: it is for all of them.
    """

    PROPERTY = "RMQ_ORIGIN"
    __slots__ = ("attempt", "group", "offset", "position", "queue_id", "topic")

    def __init__(self, position: int, topic: str, queue_id: int, offset: int, group: str, attempt: int = 0) -> None:
        self.position = position
        self.topic = topic
        self.queue_id = queue_id
        self.offset = offset
        self.group = group
        self.attempt = attempt

    def text(self) -> str:
        """As it is stored. Neither topics nor groups hold an `@`."""
        return f"{self.position}@{self.topic}@{self.queue_id}@{self.offset}@{self.group}@{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> "Origin | None":
        """None for what is not ours: an old client's property of that name has no say."""
        parts = text.split("@")
        if len(parts) != 6 or not all(parts[i].isdecimal() for i in (0, 2, 3, 5)):
            return None
        return cls(int(parts[0]), parts[1], int(parts[2]), int(parts[3]), parts[4], int(parts[5]))
