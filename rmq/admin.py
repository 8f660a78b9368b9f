"""The broker's tables for people: look at them, change them. Implements rmq.adminport.AdminPort in this process.

Reading takes nothing from any group and does bounded work. Deleting ends the polls that wait on what is deleted. Does
not decide who may call: that is the admin service's. Messages are browse.py's, what a group holds is groupviews.py's,
dead letters are deadletters.py's.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from rmq.adminport import (
    GroupInfo,
    Kept,
    Page,
    QueueRange,
    Start,
    StoreInfo,
    Timer,
    TopicInfo,
    Transaction,
    Whereabouts,
)
from rmq.browse import Browser
from rmq.clock import Clock, ManualClock
from rmq.config import AS_IS, Config, GroupFlags
from rmq.deadletters import REPLAYS, DeadLetters
from rmq.delay import Delay
from rmq.errors import ClientError, Code
from rmq.filter import ALL, Filter
from rmq.groups import Groups
from rmq.groupviews import GroupViews
from rmq.message import MessageType
from rmq.offsets import go_on_at
from rmq.port import Answer
from rmq.retry import RetryPolicy
from rmq.timerviews import TimerViews
from rmq.topics import Topics
from rmq.traffic import Traffic
from rmq.transaction import Transactions
from rmq.transactionviews import TransactionViews
from rmq.waiters import Waiters
from rmq.whereabouts import Finder
from rmq_store import snapshot
from rmq_store.halves import TOPIC as HALF_TOPIC
from rmq_store.journal import GroupDrop, TopicDrop
from rmq_store.ledger import Subscription
from rmq_store.state import Topic
from rmq_store.store import Store
from rmq_store.timers import TOPIC as TIMER_TOPIC


class Admin:
    """`online` are the (group, client) pairs that live; `subscribe` gives a group its places in a topic.

    `tick` does some of what is due and serves polls that were woken, `catch_up` does all that is due.
    """

    def __init__(
        self,
        store: Store,
        topics: Topics,
        groups: Groups,
        waiters: Waiters,
        clock: Clock,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        *,
        traffic: Traffic,
        delay: Delay,
        transactions: Transactions,
        online: set[tuple[str, str]],
        subscribe: Callable[[str, str], Subscription],
        tick: Callable[[], None],
        catch_up: Callable[[], None],
    ) -> None:
        self._store = store
        self._state = store.state
        self._topics = topics
        self._groups = groups
        self._waiters = waiters
        self._traffic = traffic
        self._clock = clock
        self._config = config
        self._tick = tick
        self._catch_up = catch_up
        self._browser = Browser(store, topics, loop)
        self.views = GroupViews(store, self._browser, waiters, clock, online)
        self._timers = TimerViews(store, delay)
        self._finder = Finder(store, self._browser)
        self._transactions = TransactionViews(store, transactions)
        self._letters = DeadLetters(store, topics, self._browser, loop, subscribe=subscribe, tick=tick)

    def describe(self) -> StoreInfo:
        """See AdminPort."""
        log = self._store.log
        return StoreInfo(
            log.begin,
            log.end,
            self._store.flusher.safe,
            self._store.disk.free_bytes(),
            len(self._state.topics),
            len(self._state.groups),
            self._state.leases.open_count,
            len(self._waiters),
            self._store.damage.total,
            self._store.damage.set_aside_bytes,
        )

    # -- topics ------------------------------------------------------------------------------------------------------

    def topics(self) -> Iterator[TopicInfo]:
        """See AdminPort."""
        for name in sorted(self._state.topics):
            topic = self._topics.find(name)
            if topic is not None:
                yield self._topic_info(topic)

    def topic(self, name: str) -> TopicInfo:
        """See AdminPort."""
        return self._topic_info(self._browser.require(name))

    def _topic_info(self, topic: Topic) -> TopicInfo:
        ranges = [QueueRange(q.queue_id, q.min_offset, q.visible) for q in topic.queues]
        groups = sorted(g for g in self._state.leases.by_topic.get(topic.name, ()) if g != REPLAYS)
        return TopicInfo(topic.name, MessageType(topic.type), ranges, groups)

    def put_topic(self, name: str, kind: MessageType | None, queues: int) -> Answer[TopicInfo]:
        """See AdminPort."""
        known = self._topics.find(name)
        if known is not None and 0 < queues < len(known.queues):
            raise ClientError(
                Code.BAD_REQUEST, f"topic {name} has {len(known.queues)} queues and can only get more, not {queues}"
            )
        if queues > self._config.queues_per_topic_max:
            raise ClientError(
                Code.BAD_REQUEST,
                f"{queues} queues are more than queues_per_topic_max = {self._config.queues_per_topic_max}",
            )
        if kind is None:
            kind = MessageType(known.type) if known else MessageType.NORMAL
        default = len(known.queues) if known else self._config.topic_queues
        topic = self._topics.make(name, kind, queues or default)
        return self._store.when_safe(self._topic_info(topic))

    def delete_topic(self, name: str) -> Answer[None]:
        """See AdminPort."""
        if name == TIMER_TOPIC:
            raise ClientError(Code.BAD_REQUEST, f"{name} holds all delayed messages that wait: cancel single ones")
        if name == HALF_TOPIC:
            raise ClientError(Code.BAD_REQUEST, f"{name} holds all transactions that have not ended: end single ones")
        self._drop_topic(self._browser.require(name).name)
        return self._store.when_safe(None)

    def _drop_topic(self, name: str) -> None:
        for subscription in self._state.leases.by_topic.get(name, {}).values():
            self._forget(subscription)
        self._topics.forget(name)
        self._traffic.forget_topic(self._state.topics[name])
        self._store.apply(TopicDrop(name))
        self._browser.news(name)

    def _forget(self, subscription: Subscription) -> None:
        self._waiters.end(subscription)
        self._traffic.forget(subscription)

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(self) -> Iterator[GroupInfo]:
        """See AdminPort."""
        return self.views.each()

    def group_info(self, name: str, *, open_max: int = 0) -> GroupInfo:
        """See AdminPort."""
        return self.views.one(name, open_max)

    def renewed(self, group: str, client_id: str) -> int:
        """See AdminPort."""
        return len(self._state.leases.by_client.get((group, client_id), ()))

    def put_group(
        self, name: str, attempts_max: int, retry: RetryPolicy | None, flags: GroupFlags = AS_IS
    ) -> Answer[GroupInfo]:
        """See AdminPort."""
        known = self._state.groups.get(name)
        attempts = attempts_max or (known.attempts_max if known else self._config.attempts_max)
        self._groups.make(name, attempts, retry or self._groups.rules(name).retry, flags)
        return self._store.when_safe(self.group_info(name))

    def delete_group(self, name: str) -> Answer[None]:
        """See AdminPort."""
        self.views.require(name)
        self._drop_group(name)
        return self._store.when_safe(None)

    def _drop_group(self, name: str) -> None:
        for subscription in self._state.leases.by_group.get(name, {}).values():
            self._forget(subscription)
        self._groups.forget(name)
        self._store.apply(GroupDrop(name))

    def reset_offset(self, group: str, topic: str, start: Start) -> Answer[GroupInfo]:
        """See AdminPort."""
        self.views.require(group)
        queues = self._browser.require(topic).queues
        begins = {queue.queue_id: self._browser.begin(queue, start) for queue in queues}
        subscription = self._state.leases.subscription(group, topic)
        go_on_at(self._store, subscription, begins)
        subscription.forget_ready()
        self._tick()
        return self._store.when_safe(self.group_info(group))

    # -- messages ----------------------------------------------------------------------------------------------------

    def peek(self, topic: str, start: Start, limit: int, wanted: Filter = ALL) -> Page:
        """See AdminPort."""
        return self._browser.peek(topic, start, limit, wanted)

    def watch(self, topic: str) -> "asyncio.Future[None]":
        """See AdminPort."""
        return self._browser.watch(topic)

    def visible(self, topic: str) -> None:
        """The broker tells: there is something new to read."""
        self._browser.news(topic)

    def find(self, topic: str, *, message_id: str = "", key: str = "", limit: int = 32) -> Answer[Sequence[Kept]]:
        """See AdminPort."""
        if bool(message_id) == bool(key):
            raise ClientError(Code.BAD_REQUEST, "give a message id or a key, one of the two")
        return self._browser.find(topic, message_id, key, limit)

    def copies(self, message_id: str, topic: str) -> Answer[Sequence[Kept]]:
        """See AdminPort."""
        return self._finder.copies(message_id, topic)

    def whereabouts(self, copy: Kept) -> Whereabouts:
        """See AdminPort."""
        return self._finder.whereabouts(copy)

    def dead_letters(self, group: str, limit: int) -> Page:
        """See AdminPort."""
        return self._letters.page(group, limit)

    def replay(self, group: str, message_ids: Sequence[str]) -> Answer[int]:
        """See AdminPort."""
        self.views.require(group)
        return self._letters.replay(group, message_ids)

    # -- delayed messages --------------------------------------------------------------------------------------------

    def timers(self, topic: str, limit: int) -> Iterator[Timer]:
        """See AdminPort."""
        return self._timers.all(topic, limit)

    def timer(self, number: int) -> Timer:
        """See AdminPort."""
        return self._timers.one(number)

    def cancel_timer(self, number: int) -> Answer[None]:
        """See AdminPort."""
        return self._timers.cancel(number)

    # -- transactions ------------------------------------------------------------------------------------------------

    def transactions(self, topic: str, limit: int, *, parked: bool) -> Iterator[Transaction]:
        """See AdminPort."""
        return self._transactions.all(topic, limit, parked=parked)

    def transaction(self, number: int) -> Transaction:
        """See AdminPort."""
        return self._transactions.one(number)

    def end_transaction(self, number: int, *, commit: bool) -> Answer[None]:
        """See AdminPort."""
        return self._transactions.end(number, commit=commit)

    # -- tests -------------------------------------------------------------------------------------------------------

    def advance(self, ms: int) -> Answer[int]:
        """See AdminPort."""
        if not isinstance(self._clock, ManualClock):
            raise ClientError(Code.BAD_REQUEST, "the clock is the machine's: start the server with --manual-clock")
        if ms < 0:
            raise ClientError(Code.BAD_REQUEST, f"time only moves forward, not by {ms} ms")
        self._clock.advance(ms=ms)
        self._catch_up()
        return self._store.when_safe(self._clock.wall_ms())

    def reset(self) -> Answer[None]:
        """See AdminPort."""
        if self._config.flush != "memory":
            raise ClientError(Code.BAD_REQUEST, "this server keeps its data: only one with --flush memory can be reset")
        for name in dict.fromkeys([*self._state.groups, *self._state.leases.by_group]):
            self._drop_group(name)
        for name in list(self._state.topics):
            self._drop_topic(name)
        snapshot.forget_changes(self._state)  # nothing is ever saved
        self.declare()
        return self._store.when_safe(None)

    def declare(self) -> None:
        """Makes the topics and groups that the configuration wants. Raises ClientError."""
        for name, topic in self._config.topics.items():
            self._topics.make(name, topic.type, topic.queues)
        for name, group in self._config.groups.items():
            self._groups.make(name, group.attempts_max, group.retry, group.flags)
