"""Owns who is connected: each client's settings, groups and last sign of life, by client id.

Promises the broker an `online` when a client begins to consume a topic, and an `offline` when it says goodbye or has
been silent for `client_silent_ms`; any call of a client is a sign of life. Settings only add to what a request says: no
call needs an earlier Telemetry or Heartbeat, so a server that restarts under its clients goes on (facts:
users-and-peers.md 26). Does not own streams (telemetry) and keeps nothing on disk.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq.filter import Filter
from rmq.port import Answer, BrokerPort
from rmq_proto import v2
from rmq_proxy.answers import ignore, then
from rmq_proxy.validate import Limits

log = logging.getLogger(__name__)

SCAN_INTERVAL_S = 5.0
GOODBYE_S = 60.0
"""Java's SDK opens a stream at most 1 s after its goodbye (facts: grpc.md 2.5), and may have to connect first."""


class Client(msgspec.Struct):
    """One client id. `groups`: what it consumes, topic -> filter by group; stored names throughout.

    `told_fifo`: what its first settings were answered, None before; `begun`: it was not known before these, so that
    they were its very first. A client chooses by that answer, once, how it consumes.
    """

    client_id: str
    seen_s: float
    namespace: str = ""
    settings: v2.Settings | None = None
    topics: frozenset[str] = frozenset()
    settings_group: str = ""
    told_fifo: bool | None = None
    begun: bool = False
    groups: dict[str, Mapping[str, Filter]] = {}


class Sessions:
    """All clients of this process. Times are seconds of `Clock.monotonic_s`."""

    def __init__(self, broker: BrokerPort, limits: Limits, clock: Clock) -> None:
        self._broker = broker
        self._limits = limits
        self._clock = clock
        self._clients: dict[str, Client] = {}
        self._producers: dict[str, dict[str, None]] = {}  # topic -> client ids, in order of their settings
        self._gone: dict[str, float] = {}  # client id -> when it said goodbye, the latest last
        self._hear_gone: list[Callable[[str], None]] = []
        self._scan_due_s = 0.0

    def __len__(self) -> int:
        return len(self._clients)

    def tells_gone(self, tell: Callable[[str], None]) -> None:
        """Who hears of each client that is no longer known: by its goodbye, or its silence."""
        self._hear_gone.append(tell)

    def touch(self, client_id: str) -> Client | None:
        """A call came in; the client as far as it is known."""
        client = self._clients.get(client_id)
        if client is not None:
            client.seen_s = self._clock.monotonic_s()
        return client

    def publishes(self, client_id: str, namespace: str, settings: v2.Settings, topics: frozenset[str]) -> None:
        """A producer's settings; they replace its earlier ones. Raises TOO_MANY_REQUESTS."""
        client = self._client(client_id)
        self._forget_topics(client)
        client.namespace, client.settings, client.topics = namespace, settings, topics
        for topic in topics:
            self._producers.setdefault(topic, {})[client_id] = None

    def subscribes(
        self, client_id: str, namespace: str, settings: v2.Settings, group: str, subscriptions: Mapping[str, Filter]
    ) -> Answer[None]:
        """A consumer's settings; they replace its earlier ones. Raises TOO_MANY_REQUESTS, CONSUMER_GROUP_NOT_FOUND."""

        def keep(_: None) -> None:
            client.namespace, client.settings = namespace, settings
            if client.settings_group not in ("", group):
                self._leave(client, client.settings_group)
            client.settings_group = group

        begun = client_id not in self._clients
        client = self._client(client_id)
        client.begun = client.begun or begun
        pulls = settings.client_type == v2.PULL_CONSUMER
        return then(self._consumes(client, group, subscriptions, pulls=pulls), keep)

    def tells(self, client_id: str, *, fifo: bool) -> bool:
        """What this client's settings are to say of order: the first answer stays."""
        client = self._client(client_id)
        if client.told_fifo is None:
            client.told_fifo = fifo
        return client.told_fifo

    def consumes(self, client_id: str, group: str, topic: str, wanted: Filter) -> Answer[None]:
        """A receive: news to the broker only if the client was not known to read `topic` like this. Raises as
        subscribes.
        """
        client = self._clients.get(client_id)
        if client is None:
            client = self._client(client_id)
        known = client.groups.get(group, {})
        if known.get(topic) == wanted:
            return None
        return self._consumes(client, group, {**known, topic: wanted})

    def lives(self, client_id: str, group: str) -> Answer[None]:
        """A consumer's heartbeat, perhaps the first that we hear of it. Raises as subscribes."""
        client = self._client(client_id)
        if group in client.groups:
            return None
        return self._consumes(client, group, {})

    def adopt(self, group: str, client_id: str) -> None:
        """The broker found leases of this client in its store: it counts as seen now, at the start."""
        self._client(client_id).groups.setdefault(group, {})

    def terminate(self, client_id: str, group: str) -> None:
        """A client says goodbye; `group` is empty where it named none."""
        client = self._clients.get(client_id)
        if group and (client is None or group not in client.groups):
            self._offline(group, client_id)
        self._remember_goodbye(client_id)
        if client is not None:
            self._drop(client)

    def has_left(self, client_id: str) -> bool:
        """Whether it said goodbye within the last minute."""
        return client_id in self._gone

    def _remember_goodbye(self, client_id: str) -> None:
        """Of the last `clients_max` clients."""
        self._gone.pop(client_id, None)
        if len(self._gone) >= self._limits.clients_max:
            del self._gone[next(iter(self._gone))]
        self._gone[client_id] = self._clock.monotonic_s()

    def producers_of(self, topic: str) -> Sequence[str]:
        """The client ids whose settings publish `topic`, the latest settings last."""
        return tuple(self._producers.get(topic, ()))

    def get(self, client_id: str) -> Client | None:
        """As known; not a sign of life."""
        return self._clients.get(client_id)

    def clients(self) -> Collection[Client]:
        """All, to be looked at only; not a sign of life."""
        return self._clients.values()

    def tick(self, now_s: float) -> None:
        """Drops the clients that have been silent for too long, forgets goodbyes of a minute ago; looks every 5 s,
        however often it is called.
        """
        if now_s < self._scan_due_s:
            return
        self._scan_due_s = now_s + SCAN_INTERVAL_S
        oldest_s = now_s - self._limits.client_silent_ms / 1000
        for client in [c for c in self._clients.values() if c.seen_s <= oldest_s]:
            log.info("client %s has been silent for %d ms", client.client_id, self._limits.client_silent_ms)
            self._drop(client)
        for client_id in [known for known, left_s in self._gone.items() if left_s <= now_s - GOODBYE_S]:
            del self._gone[client_id]

    def _client(self, client_id: str) -> Client:
        """Known, or new; seen now."""
        client = self.touch(client_id)
        if client is None:
            if len(self._clients) >= self._limits.clients_max:
                raise ClientError(Code.TOO_MANY_REQUESTS, f"there are {len(self._clients)} clients already; try later")
            client = self._clients[client_id] = Client(client_id, self._clock.monotonic_s())
        return client

    def _consumes(
        self, client: Client, group: str, subscriptions: Mapping[str, Filter], *, pulls: bool = False
    ) -> Answer[None]:
        """The broker gives the group a place in each topic; who `pulls` makes one by a commit, or none."""

        def keep(_: None) -> None:
            client.groups[group] = subscriptions

        return then(self._broker.online(group, client.client_id, {} if pulls else subscriptions), keep)

    def _drop(self, client: Client) -> None:
        del self._clients[client.client_id]
        self._forget_topics(client)
        for group in tuple(client.groups):
            self._leave(client, group)
        for tell in self._hear_gone:
            tell(client.client_id)

    def _leave(self, client: Client, group: str) -> None:
        del client.groups[group]
        self._offline(group, client.client_id)

    def _offline(self, group: str, client_id: str) -> None:
        try:
            ignore(self._broker.offline(group, client_id), "offline")
        except ClientError as error:  # the group may be gone; then there is nothing to release
            log.info("offline of %s in %s: %s", client_id, group, error)

    def _forget_topics(self, client: Client) -> None:
        for topic in client.topics:
            ids = self._producers[topic]
            del ids[client.client_id]
            if not ids:
                del self._producers[topic]
        client.topics = frozenset()
