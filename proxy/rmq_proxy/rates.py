"""Rate limits: how many messages a second one client sends and one topic takes, and how many receives and pulls they
make.

Who is above its rate is answered TOO_MANY_REQUESTS, which every official client takes for a reason to try again later;
nothing is stored or leased then. Each key has the allowance of a second to use at once; a call that still finds some of
it passes whole, however many messages it carries, and what it took too much is waited for by those after it.

Not limited: heartbeats and telemetry (a client that cannot say that it lives is given up), acks, changes of invisible
durations, dead letters and commits of offsets (to refuse one only has the message delivered again), and ends of
transactions.
"""

from collections.abc import Callable, Iterator
from typing import cast

from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.metrics import Exposition

KEYS_MAX = 10_000
"""Keys above their idle state that one limit tells apart; those beyond share one allowance."""
BURST_S = 1.0
_BUSY_S = BURST_S - 1e-6  # less than that left is nothing left: sums of fractions are not exact
_OTHERS = ""
SETTINGS = ("client_sends_per_s_max", "topic_sends_per_s_max", "client_receives_per_s_max", "topic_receives_per_s_max")


class Rate:
    """One setting, `per_s_max` for each key; 0: no limit. Counts the calls that it refused."""

    def __init__(self, setting: str, per_s_max: int) -> None:
        self.setting = setting
        self.per_s_max = per_s_max
        self.refused = 0
        self._step_s = 1 / per_s_max if per_s_max else 0.0
        self._busy_until_s: dict[str, float] = {}  # when what a key took will all be made up for
        self._sweep_s = 0.0

    def check(self, key: str, now_s: float) -> None:
        """Raises TOO_MANY_REQUESTS where a call may not pass now."""
        busy = self._busy_until_s
        until_s = busy.get(key)
        if until_s is None:
            until_s = busy.get(_OTHERS, 0.0) if len(busy) >= KEYS_MAX else 0.0
        if until_s >= now_s + _BUSY_S:
            self.refused += 1
            raise ClientError(
                Code.TOO_MANY_REQUESTS,
                f"more than {self.setting} = {self.per_s_max} ({key}): try later, or raise it in config.yaml",
            )

    def take(self, key: str, count: int, now_s: float) -> None:
        """A call passes."""
        busy = self._busy_until_s
        until_s = busy.get(key)
        if until_s is None:
            key = self._room_for(key, now_s)
            until_s = self._busy_until_s.get(key, 0.0)
            busy = self._busy_until_s
        busy[key] = (until_s if until_s > now_s else now_s) + count * self._step_s

    def _room_for(self, key: str, now_s: float) -> str:
        """The key itself, or the one that stands for all for which there is no room. Idle keys make room."""
        if len(self._busy_until_s) >= KEYS_MAX and now_s >= self._sweep_s:
            self._sweep_s = now_s + BURST_S
            self._busy_until_s = {one: until_s for one, until_s in self._busy_until_s.items() if until_s > now_s}
        return key if len(self._busy_until_s) < KEYS_MAX else _OTHERS


class Rates:
    """All limits of one server. Time is real (`monotonic_s`)."""

    def __init__(self, config: Config, monotonic_s: Callable[[], float]) -> None:
        self._now_s = monotonic_s
        self._all = [Rate(setting, cast(int, getattr(config, setting))) for setting in SETTINGS]
        client_sends, topic_sends, client_receives, topic_receives = (r if r.per_s_max else None for r in self._all)
        self._sends = (client_sends, topic_sends) if client_sends or topic_sends else None
        self._receives = (client_receives, topic_receives) if client_receives or topic_receives else None

    def send(self, client_id: str, topic: str, messages: int) -> None:
        """Raises TOO_MANY_REQUESTS; nothing is counted against the caller then."""
        if self._sends is not None:
            self._pass(self._sends, client_id, topic, messages)

    def receive(self, client_id: str, topic: str) -> None:
        """As send, for one call."""
        if self._receives is not None:
            self._pass(self._receives, client_id, topic, 1)

    def _pass(self, rates: tuple[Rate | None, Rate | None], client_id: str, topic: str, count: int) -> None:
        now_s = self._now_s()
        of_client, of_topic = rates
        if of_client is not None:
            of_client.check(client_id, now_s)
        if of_topic is not None:
            of_topic.check(topic, now_s)
            of_topic.take(topic, count, now_s)
        if of_client is not None:
            of_client.take(client_id, count, now_s)

    def source(self, page: Exposition) -> Iterator[None]:
        """See metrics.Source."""
        refused = page.family("rmq_rate_limited_total", "counter", "Calls that a rate limit refused.", "setting")
        for rate in self._all:
            refused.add(rate.refused, rate.setting)
        yield
