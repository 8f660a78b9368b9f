"""Receives of lite topics: which of a client's lite topics may have something for it, and taking from them.

Of a lite topic the next message comes once those before it are settled, so it is FIFO, and a receive gives at most one
of each; `order.py` and the lines do that as for a message group. A lite topic that has nothing costs a receive nothing:
each reader has a list of those that may have something, which grows when a message becomes visible, when what was
before it is settled, and when a subscription begins.
"""

from rmq.config import Config
from rmq.filter import reading_cost
from rmq.message import Delivered
from rmq.pop import Pop
from rmq.port import ReceiveRequest
from rmq.scan import SCAN_MAX
from rmq.take import Take
from rmq.topics import Topics
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.journal import LitePlaces
from rmq_store.ledger import Ledger, Subscription
from rmq_store.lites import Lite, LiteGroup, Place
from rmq_store.state import Topic
from rmq_store.store import Store


class Reader(Subscription):
    """One client's receives of its group's lite topics. `pending`: keys of those that may have something; `ready` is
    the group's own: what comes again although it is in no line, a replayed dead letter.
    """

    __slots__ = ("client", "home", "version")

    def __init__(self, home: Subscription, client: str) -> None:
        super().__init__(home.group, home.topic)
        self.home = home
        self.ready = home.ready
        self.client = client
        self.version = 0  # of the last change of what it subscribes


class LiteReaders:
    """All readers. Those that may have something are told to the table of leases, as `woken`."""

    def __init__(self, store: Store, topics: Topics, pop: Pop, config: Config) -> None:
        self._store = store
        self._lites = store.state.lites
        self._leases = store.state.leases
        self._topics = topics
        self._pop = pop
        self._config = config
        self._readers: dict[tuple[str, str], dict[str, Reader]] = {}  # group and client -> parent topic
        self._lites.unseen.clear()  # of the replay: a new reader looks at all it subscribes

    def of(self, home: Subscription, client: str) -> Reader:
        """The client's, made on first use."""
        mine = self._readers.setdefault((home.group, client), {})
        reader = mine.get(home.topic)
        if reader is None or reader.home is not home:  # the topic or the group was dropped meanwhile, and made again
            reader = mine[home.topic] = Reader(home, client)
            group = self._lites.group(home.group, home.topic)
            if group is not None:
                reader.pending.update(group.clients.get(client, {}))
        return reader

    def gone(self, group: str, client: str) -> None:
        """The client is no more."""
        self._readers.pop((group, client), None)

    # -- what is new -------------------------------------------------------------------------------------------------

    def visible(self, queue: ConsumeQueue) -> None:
        """Messages of a queue can be received now."""
        unseen = self._lites.unseen.get((queue.topic, queue.queue_id))
        while unseen and unseen[0][0] < queue.visible:
            _, key = unseen.popleft()
            for group in self._lites.of_topic(queue.topic):
                self.tell(group, key)
        if unseen is not None and not unseen:
            del self._lites.unseen[queue.topic, queue.queue_id]

    def woken(self, home: Subscription) -> None:
        """Lines of the group may go on, or something comes again that is in none."""
        group = self._lites.group(home.group, home.topic)
        while home.lines:
            _, key = home.lines.popleft()
            if group is not None:
                self.tell(group, key)
        for client in group.clients if group is not None and home.ready else ():
            if (reader := self._known(home, client)) is not None:
                self._leases.woken[reader] = None

    def tell(self, group: LiteGroup, key: int) -> None:
        """A lite topic may have something for whoever subscribes it."""
        place = group.places.get(key)
        for client in place.clients if place is not None else ():
            if (reader := self._known(group, client)) is not None:
                reader.pending[key] = None
                self._leases.woken[reader] = None

    def _known(self, of: LiteGroup | Subscription, client: str) -> Reader | None:
        """None for a client that has not received, nor changed what it subscribes."""
        return self._readers.get((of.group, client), {}).get(of.topic)

    # -- take --------------------------------------------------------------------------------------------------------

    def take(self, reader: Reader, request: ReceiveRequest) -> list[Delivered]:
        """As Pop.take, of what the client subscribes. Raises TOO_MANY_REQUESTS at leases_max."""
        topic, home = self._topics.find(reader.topic), reader.home
        if topic is None or self._leases.subscriptions.get((reader.group, reader.topic)) is not home:
            reader.pending.clear()
            home.forget_ready()
            return []
        take = Take(
            min(request.batch, self._config.receive_batch_max), self._config.receive_bytes_max,
            self._config.leases_max - self._leases.open_count, request.filter, (), ordered=False, fifo=request.fifo,
        )  # fmt: skip
        moved: dict[int, int] = {}
        before = list(reader.pending)
        try:
            self._pop.take_ready(take, home)
            for key in before:
                if not take.goes_on:
                    break
                del reader.pending[key]
                if self._take_lite(take, reader, topic, key, moved):
                    reader.pending[key] = None  # behind the others
        except OSError:
            self._leases.put_back(home, take.popped)
            reader.pending.update(dict.fromkeys(before))
            raise
        if take.stalled and not take.messages and not take.settled:
            raise self._pop.too_many()
        for ledger in take.grouped:
            take.nexts[ledger] = max(ledger.next, topic.queues[ledger.queue_id].visible)
        self._pop.looked += SCAN_MAX - take.budget
        messages = self._pop.lease(take, home, request)
        if moved:
            self._store.apply(LitePlaces(reader.group, reader.topic, list(moved.items())))
        return messages

    def _take_lite(self, take: Take, reader: Reader, topic: Topic, key: int, moved: dict[int, int]) -> bool:
        """True where there may be more of this lite topic for another take."""
        lite, group = self._lites.get(key), self._lites.group(reader.group, reader.topic)
        place = group.places.get(key) if group is not None else None
        if lite is None or place is None or reader.client not in place.clients:
            return False
        ledger = reader.home.ledger(lite.queue_id)
        if ledger.lines is not None and ledger.lines.length(key):
            return self._pop.order.take_line(take, ledger, key)
        queue = topic.queues[lite.queue_id]
        self._lites.cut(lite, queue.min_offset)
        return self._take_new(take, ledger, queue, lite, place, moved)

    def _take_new(
        self, take: Take, ledger: Ledger, queue: ConsumeQueue, lite: Lite, place: Place, moved: dict[int, int]
    ) -> bool:
        start, room = place.next, take.room
        while (offset := lite.next(start)) is not None and offset < queue.visible:
            if take.room < room and not take.fifo:
                return False  # what is behind comes when it is settled
            if take.free <= 0:
                take.stalled = True
            if take.free <= 0 or not take.goes_on:
                return take.room == room
            start = offset + 1
            if ledger.find(offset) is None:  # a crash came before the place had moved
                self._look(take, ledger, lite, offset)
            moved[lite.key] = start
        return False

    def _look(self, take: Take, ledger: Ledger, lite: Lite, offset: int) -> None:
        """Takes one message, if it is wanted; nobody gets one that is not."""
        take.budget -= 1
        kept = self._store.read_message(lite.topic, lite.queue_id, offset)
        properties = kept.decode_properties() if kept else {}
        if kept is not None and take.wanted.matches(properties):
            take.grouped.setdefault(ledger, []).append((offset, lite.key))
            take.add(ledger, offset, 1, kept, properties)
        else:
            take.budget -= reading_cost(kept.size) if kept else 0
