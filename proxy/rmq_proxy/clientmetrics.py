"""Who is connected, for a scrape: producers and consumers by language, version and group. Only looks.

What a client says of itself becomes a label: up to `series_max` different sets of them are told apart.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from rmq.message import is_system
from rmq.metrics import Exposition, flag
from rmq_proto import v2
from rmq_proxy.adminconvert import agent
from rmq_proxy.sessions import Client, Sessions
from rmq_proxy.telemetry import Telemetry

AGENT_CHARS_MAX = 32  # of a language or a version
GRPC = "grpc"
OTHER = "other"
Sets: TypeAlias = "Counter[tuple[str, ...]]"
MODES: Mapping[int, str] = {v2.PUSH_CONSUMER: "push", v2.SIMPLE_CONSUMER: "simple", v2.PULL_CONSUMER: "pull"}


class ClientMetrics:
    """A metrics.Source."""

    def __init__(self, sessions: Sessions, telemetry: Telemetry, *, series_max: int) -> None:
        self._series_max = series_max
        self._sessions = sessions
        self._telemetry = telemetry

    def __call__(self, page: Exposition) -> Iterator[None]:
        """See metrics.Source."""
        producers: Sets = Counter()
        consumers: Sets = Counter()
        for client in list(self._sessions.clients()):
            self._count(client, producers, consumers)
            yield
        family = page.family(
            "rocketmq_producer_connections", "gauge", "Producers that live.", "language", "version", "protocol_type"
        )
        for labels, count in producers.items():
            family.add(count, *labels)
        family = page.family(
            "rocketmq_consumer_connections", "gauge", "Consumers that live.",
            "consumer_group", "language", "version", "consume_mode", "protocol_type", "is_system",
        )  # fmt: skip
        for labels, count in consumers.items():
            family.add(count, *labels)
        page.value("rmq_clients", "gauge", "Clients that live, by client id.", len(self._sessions))
        page.value("rmq_telemetry_streams", "gauge", "Command streams that are open.", len(self._telemetry))
        yield

    def _count(self, client: Client, producers: Sets, consumers: Sets) -> None:
        settings = client.settings or v2.Settings()
        said = agent(settings, self._telemetry.call_of(client.client_id))
        language, version = (text[:AGENT_CHARS_MAX] for text in said)
        if settings.HasField("publishing"):
            self._add(producers, (language, version, GRPC))
        mode = MODES.get(settings.client_type, OTHER)
        for group in client.groups:
            self._add(consumers, (group, language, version, mode, GRPC, flag(is_system("", group))))

    def _add(self, sets: Sets, labels: tuple[str, ...]) -> None:
        if labels not in sets and len(sets) >= self._series_max:
            labels = (OTHER,) * len(labels)
        sets[labels] += 1
