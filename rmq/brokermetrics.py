"""What the broker tells a scrape: its counters, and gauges that are computed then. Only looks, in small steps.

Names and labels are RIP-46's where it has one (facts: grpc.md 7.3), ours begin with rmq_. Topics, and groups on topics,
have series up to `series_max` each; the number of those left out is a metric itself.
"""

from collections.abc import Iterator
from itertools import islice

from rmq import message as m
from rmq.clock import Clock
from rmq.deadletters import REPLAYS
from rmq.groupviews import GroupViews
from rmq.metrics import Exposition, Family, flag
from rmq.traffic import Outgoing, Traffic
from rmq.waiters import Waiters
from rmq_store.ledger import Subscription
from rmq_store.store import Store

READ_AND_WRITE = 6  # Apache's bits: 4 read, 2 write
MEMORY, DISK = "memory", "disk"  # RIP-46: storage_medium
INCOMING = ("topic", "message_type", "is_system")
OUTGOING = ("topic", "consumer_group", "is_retry", "is_system")
BACKLOG = ("topic", "consumer_group", "is_system")


class BrokerMetrics:
    """`sources`: a metrics.Source of each part. `medium`: DISK or MEMORY, where the log is."""

    def __init__(
        self,
        store: Store,
        waiters: Waiters,
        views: GroupViews,
        traffic: Traffic,
        clock: Clock,
        *,
        medium: str,
        series_max: int,
    ) -> None:
        self._store = store
        self._state = store.state
        self._waiters = waiters
        self._views = views
        self._traffic = traffic
        self._clock = clock
        self._medium = medium
        self._series_max = series_max
        tables = (self._tables, self._log, self._damage, self._flushes, self._topics)
        self.sources = (*tables, self._incoming, self._transactions, self._groups, self._left)

    def _tables(self, page: Exposition) -> Iterator[None]:
        leases = self._state.leases
        value = page.value
        value("rocketmq_broker_permission", "gauge", "Read 4 and write 2, added.", READ_AND_WRITE)
        value(
            "rocketmq_topic_number", "gauge", "Topics, those of retries and dead letters too.", len(self._state.topics)
        )
        value("rocketmq_consumer_group_number", "gauge", "Consumer groups.", len(self._state.groups))
        value("rmq_leases", "gauge", "Receives whose messages are not all settled or due yet.", len(leases.leases))
        value("rmq_open_messages", "gauge", "Messages delivered and not settled; see leases_max.", leases.open_count)
        value("rmq_parked_messages", "gauge", "Messages that wait for others of their message group; see parked_max.",
              leases.parked_count)  # fmt: skip
        value("rmq_delayed_messages", "gauge", "Delayed messages that wait; see timers_max.", len(self._state.timers))
        halves = self._state.halves
        value("rmq_transactions", "gauge", "Transactions that have not ended; see transactions_max.", len(halves))
        value("rmq_transactions_parked", "gauge", "Of those, the ones that wait for an operator.", len(halves.parked))
        value("rmq_timers", "gauge", "Timers of leases that are set.", len(leases.wheel))
        value(
            "rmq_waiting_polls",
            "gauge",
            "Receives and pulls that wait for a message; see polls_max.",
            len(self._waiters),
        )
        yield

    def _log(self, page: Exposition) -> Iterator[None]:
        log, flusher = self._store.log, self._store.flusher
        media = ("storage_type", "storage_medium")
        where = ("local", self._medium)

        def storage(name: str, text: str, value: int) -> None:
            page.family(f"rocketmq_storage_{name}", "gauge", text, *media).add(value, *where)

        storage("size", "Bytes of the log that are kept.", log.end - log.begin)
        behind = 0 if self._medium == MEMORY else log.end - flusher.synced
        storage("flush_behind_bytes", "Bytes of the log that no fsync has made safe yet.", behind)
        storage("dispatch_behind_bytes", "Bytes that the queues do not know yet: none, ever.", 0)
        storage("message_reserve_time", "Age of the oldest record that is kept, in ms.", self._oldest_ms())
        page.value("rmq_log_begin", "gauge", "The oldest position of the log.", log.begin)
        page.value("rmq_log_end", "gauge", "The position behind the last record: all bytes ever logged.", log.end)
        page.value("rmq_log_written", "gauge", "The position up to which the log is in its files.", log.written)
        page.value("rmq_log_safe", "gauge", "The position up to which messages can be received.", flusher.safe)
        page.value("rmq_disk_free_bytes", "gauge", "Free space where the data are.", self._store.disk.free_bytes())
        yield

    def _damage(self, page: Exposition) -> Iterator[None]:
        damage = self._store.damage
        found = page.family("rmq_damaged_total", "counter", "Damaged places of the store that were found.", "what")
        for what, count in (("log", damage.ranges), ("queue", damage.entries), ("message", damage.messages)):
            found.add(count, what)
        text = "Bytes of an unfinished record behind the log's end, kept in lost+found at the start."
        page.value("rmq_set_aside_bytes", "gauge", text, damage.set_aside_bytes)
        yield

    def _oldest_ms(self) -> int:
        store_ms = self._store.oldest_store_ms()
        return max(self._clock.wall_ms() - store_ms, 0) if store_ms is not None else 0

    def _flushes(self, page: Exposition) -> Iterator[None]:
        family = page.family("rmq_flush_seconds", "histogram", "How long each fsync of the log took.")
        family.add_histogram(self._store.flusher.syncs)
        yield

    def _topics(self, page: Exposition) -> Iterator[None]:
        kept = page.family(
            "rmq_topic_messages", "gauge", "Messages that are kept, of all queues.", "topic", "is_system"
        )
        ends = page.family("rmq_topic_offset", "gauge", "Messages ever stored, of all queues.", "topic", "is_system")
        for name in islice(list(self._state.topics), self._series_max):
            topic = self._state.topics.get(name)
            if topic is None:
                continue
            system, end = flag(m.is_system(name)), sum(queue.visible for queue in topic.queues)
            kept.add(end - sum(queue.min_offset for queue in topic.queues), name, system)
            ends.add(end, name, system)
            yield

    def _incoming(self, page: Exposition) -> Iterator[None]:
        count = page.family("rocketmq_messages_in_total", "counter", "Messages stored.", *INCOMING)
        size = page.family("rocketmq_throughput_in_total", "counter", "Bytes of the messages stored.", *INCOMING)
        sizes = page.family("rocketmq_message_size", "histogram", "Sizes of the messages stored, in bytes.", *INCOMING)
        for topic, kind, found in islice(self._traffic.incoming(), self._series_max):
            labels = (topic, kind.name.lower(), flag(m.is_system(topic)))
            count.add(sum(found.sizes.counts), *labels)
            size.add(round(found.sizes.total), *labels)
            sizes.add_histogram(found.sizes, *labels)
            yield

    def _transactions(self, page: Exposition) -> Iterator[None]:
        half = page.family("rocketmq_half_messages", "gauge", "Transactions that have not ended.", "topic")
        for topic, count in islice(list(self._state.halves.by_topic.items()), self._series_max):
            half.add(count, topic)
            yield
        committed = page.family("rocketmq_commit_messages_total", "counter", "Transactions committed.", "topic")
        rolled_back = page.family("rocketmq_rollback_messages_total", "counter", "Transactions rolled back.", "topic")
        checks = page.family("rmq_transaction_checks_total", "counter", "Checks that a producer was sent.", "topic")
        for topic, found in islice(self._traffic.transactions(), self._series_max):
            committed.add(found.committed, topic)
            rolled_back.add(found.rolled_back, topic)
            checks.add(found.checks, topic)
            yield

    def _groups(self, page: Exposition) -> Iterator[None]:
        series = _GroupSeries(page)
        for key in islice(list(self._state.leases.subscriptions), self._series_max):
            subscription = self._state.leases.subscriptions.get(key)
            if subscription is not None and subscription.group != REPLAYS:
                series.add(subscription, self._views, self._traffic.outgoing(subscription))
                yield

    def _left(self, page: Exposition) -> Iterator[None]:
        left = page.family(
            "rmq_metrics_left_out", "gauge", "Topics, and groups on topics, beyond metrics_series_max.", "what"
        )
        for what, count in (("topics", len(self._state.topics)), ("groups", len(self._state.leases.subscriptions))):
            left.add(max(count - self._series_max, 0), what)
        yield


class _GroupSeries:
    """The families of a group on a topic."""

    def __init__(self, page: Exposition) -> None:
        def counter(name: str, text: str, *labels: str) -> Family:
            return page.family(name, "counter", text, *labels)

        def gauge(name: str, text: str) -> Family:
            return page.family(f"rocketmq_consumer_{name}", "gauge", text, *BACKLOG)

        self._out = counter("rocketmq_messages_out_total", "Messages delivered.", *OUTGOING)
        self._out_bytes = counter("rocketmq_throughput_out_total", "Bytes of the messages delivered.", *OUTGOING)
        self._buried = counter("rocketmq_send_to_dlq_messages_total", "Messages that became dead letters.", *BACKLOG)
        self._acked = counter("rmq_acked_messages_total", "Messages acknowledged.", *BACKLOG)
        self._lag = gauge("lag_messages", "Messages that are not settled.")
        self._inflight = gauge("inflight_messages", "Messages that are with a client.")
        self._ready = gauge("ready_messages", "Messages that can be delivered now.")
        self._parked = page.family(
            "rmq_consumer_parked_messages", "gauge", "Messages that wait for others of their message group.", *BACKLOG
        )
        self._lag_ms = gauge("lag_latency", "Age of the oldest message that is not settled, in ms.")
        self._queueing_ms = gauge("queueing_latency", "Age of the oldest message that was never delivered, in ms.")

    def add(self, subscription: Subscription, views: GroupViews, out: Outgoing | None) -> None:
        """One group on one topic; `out` None: nothing of it moved since the start."""
        topic, group = subscription.topic, subscription.group
        system = flag(m.is_system(topic, group))
        if out is not None:
            for again, count, size in (
                ("false", out.messages - out.again, out.messages_bytes - out.again_bytes),
                ("true", out.again, out.again_bytes),
            ):
                self._out.add(count, topic, group, again, system)
                self._out_bytes.add(size, topic, group, again, system)
            self._buried.add(out.buried, topic, group, system)
            self._acked.add(out.acked, topic, group, system)
        backlog = views.backlog(subscription)
        ready = backlog.fresh + backlog.ready
        self._lag.add(ready + backlog.leased + backlog.parked, topic, group, system)
        self._inflight.add(backlog.leased, topic, group, system)
        self._ready.add(ready, topic, group, system)
        self._parked.add(backlog.parked, topic, group, system)
        queueing_ms = views.queueing_ms(subscription) if backlog.fresh or backlog.parked else 0
        open_too = backlog.leased or backlog.ready
        self._lag_ms.add(views.unsettled_ms(subscription) if open_too else queueing_ms, topic, group, system)
        self._queueing_ms.add(queueing_ms, topic, group, system)
