"""One server: makes every part, hands each what it needs, starts and stops them in order. Only this place knows all.

Start: lock, store, broker, table of calls, port, ready line. Stop (SIGTERM, SIGINT): polls are answered, calls get
`stop_grace_ms`, the store is saved. A store that fails stops the server at once: what is not safe was not acknowledged.
"""

import asyncio
import contextlib
import gc
import logging
import os
import platform
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from rmq import __version__, openfiles
from rmq.adminport import AdminPort
from rmq.broker import Broker
from rmq.clock import Clock, ManualClock, SystemClock
from rmq.config import Config
from rmq.errors import ConfigError
from rmq.filter import Filters
from rmq.metrics import Exposition, Source
from rmq.processmetrics import ProcessMetrics
from rmq_proxy import admin, health, reflection
from rmq_proxy.admin import AdminService
from rmq_proxy.adminconvert import Facts
from rmq_proxy.clientmetrics import ClientMetrics
from rmq_proxy.gate import MeteringGate
from rmq_proxy.health import Health
from rmq_proxy.messaging import Messaging
from rmq_proxy.rates import Rates
from rmq_proxy.rpc import Row
from rmq_proxy.scrape import Scrape
from rmq_proxy.sessions import SCAN_INTERVAL_S, Sessions
from rmq_proxy.telemetry import Telemetry
from rmq_proxy.transports import make_transport
from rmq_proxy.validate import Limits
from rmq_store.errors import StoreError

log = logging.getLogger("rmq.node")
MESSAGING = "apache.rocketmq.v2.MessagingService"
LOOPBACKS = ("127.0.0.1", "::1")


_GC_THRESHOLDS = 10_000, 20, 20
"""Nothing on a hot path makes cycles, and a look at all that 10,000 waiting polls hold takes tens of milliseconds."""


class Ready(msgspec.Struct):
    """The line on standard output when clients can connect."""

    pid: int
    endpoint: str
    data: str
    flush: str
    profile: str
    tls: str  # SHA-256 of the port's certificate; empty: no TLS


def serve(config: Config) -> int:
    """Runs one server until it is told to stop; the exit code. Raises ConfigError and StoreError: it did not start."""
    openfiles.allow(config)
    if sys.platform == "win32":
        return asyncio.run(_serve(config))
    import uvloop

    return uvloop.run(_serve(config))


async def _serve(config: Config) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    if config.ready_file:
        _forget_ready(config.ready_file)
    node = Node(config, ManualClock() if config.manual_clock else SystemClock(), loop)
    for signum in (signal.SIGTERM, signal.SIGINT):  # not before: a signal ends a long recovery at once, it starts over
        loop.add_signal_handler(signum, stop.set)
    try:
        _announce(config, await node.start(), node.fingerprint)
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((stopping, node.broker.failed), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    finally:
        await node.stop()
        if config.ready_file:
            _forget_ready(config.ready_file)
    if node.broker.failed.done():
        raise node.broker.failed.result()
    return 0


class Node:
    """Broker and proxy in the caller's loop."""

    def __init__(self, config: Config, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        """Opens the store. Raises StoreError, and ConfigError for certificates that cannot be used."""
        self._config = config
        self._clock = clock
        self._loop = loop
        self.broker = Broker(config, clock, loop)
        limits = _limits(config)
        filters = Filters(config)
        self._sessions = Sessions(self.broker, limits, clock)
        for group, client_id in self.broker.recovered_clients:
            self._sessions.adopt(group, client_id)
        telemetry = self._telemetry = Telemetry(self.broker, self._sessions, limits, filters)
        self.broker.asks(telemetry)
        rates = Rates(config, clock.monotonic_s)
        advertise = config.advertise or None
        self._messaging = Messaging(self.broker, self._sessions, telemetry, limits, advertise, clock, filters, rates)
        self.admin: AdminPort = self.broker.admin
        facts = _facts(config, clock)
        self._admin = AdminService(
            self.admin, self._sessions, telemetry, facts, clock, filters, remote=config.admin_remote
        )
        self._health = Health([MESSAGING, admin.NAME])
        table = {row.path: row for row in self._rows()}
        gate = MeteringGate(clock.monotonic_s)
        clients = ClientMetrics(self._sessions, telemetry, series_max=config.metrics_series_max)
        self.scrape = _scrape(config, clock, (*self.broker.metrics.sources, clients, gate.source, rates.source))
        self._transport = make_transport(config, table, gate, logging.getLogger("rmq.transport"), self.scrape)
        self._scan: asyncio.TimerHandle | None = None

    def _rows(self) -> Sequence[Row]:
        services = [MESSAGING, admin.NAME, health.NAME]
        return [
            *self._messaging.rows(),
            *self._admin.rows(),
            *self._health.rows(),
            *reflection.rows(services),
        ]

    async def start(self) -> str:
        """Listens; returns HOST:PORT. Raises ConfigError where the port is taken, StoreError where nothing is kept.

        Not before what the configuration lists is safe: who reads the ready line may count on it, whatever comes.
        """
        if isinstance(declared := self.broker.settled(), asyncio.Future):
            await declared
        hosts = [self._config.host] if self._config.host else LOOPBACKS
        if self._config.host and self._config.host not in LOOPBACKS:
            log.warning("listening on %s while authentication is off: everyone who reaches it may do all", hosts[0])
        port = await self._transport.start(hosts, self._config.port)
        self._messaging.listens_on(hosts[0], port)
        self._scan = self._loop.call_later(SCAN_INTERVAL_S, self._scan_sessions)
        return f"[{hosts[0]}]:{port}" if ":" in hosts[0] else f"{hosts[0]}:{port}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the port's certificate; empty without TLS."""
        return self._transport.fingerprint

    def _scan_sessions(self) -> None:
        self._sessions.tick(self._clock.monotonic_s())
        self._scan = self._loop.call_later(SCAN_INTERVAL_S, self._scan_sessions)

    async def stop(self) -> None:
        """Answers what waits, gives calls their grace, saves the store. Raises StoreError where that failed."""
        if self._scan is not None:
            self._scan.cancel()
        self._health.stop_serving()
        if self._config.reconnect_on_stop:
            log.info("told %d streams of clients to connect anew", self._telemetry.reconnect())
        self.broker.end_polls()
        self._admin.end_waits()
        await self._transport.stop(self._config.stop_grace_ms / 1000)
        self.broker.close()


def _announce(config: Config, endpoint: str, fingerprint: str) -> None:
    """The ready line, last: who reads it can connect."""
    gc.collect()
    gc.freeze()  # what is here now stays: later collections need not look at it
    gc.set_threshold(*_GC_THRESHOLDS)
    ready = Ready(os.getpid(), endpoint, _data(config), config.flush, config.profile, fingerprint)
    line = msgspec.json.encode(ready).decode()
    if config.ready_file:
        _write_ready(Path(config.ready_file), line)
    _print(line)


def _forget_ready(path: str) -> None:
    """A killed server's, or our own at the end: who waits for it must not find a server that is not there."""
    with contextlib.suppress(OSError):  # what cannot be deleted cannot be written either, and that is told
        os.unlink(path)


def _write_ready(path: Path, line: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_text(line + "\n")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write the ready file {path}: {error.strerror}; choose another --ready-file"
        ) from None


def _print(line: str) -> None:
    """Whoever started us waits for this line: without it we end."""
    try:
        print(line, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter flushes into it at exit
        raise StoreError(f"cannot write to standard output: {error.strerror}; give it a reader") from None


def _data(config: Config) -> str:
    """Where the store is; empty in memory."""
    return "" if config.flush == "memory" else os.path.abspath(config.data)


def _facts(config: Config, clock: Clock) -> Facts:
    started_ms = clock.wall_ms()
    pid, data = os.getpid(), _data(config)
    return Facts(__version__, pid, data, config.flush, config.profile, started_ms, config.manual_clock)


def _scrape(config: Config, clock: Clock, sources: Sequence[Source]) -> Scrape:
    """With RIP-46's base labels."""
    base = {"cluster": config.cluster_name, "node_type": "broker", "node_id": config.broker_name}
    return Scrape(clock.monotonic_s, (*sources, ProcessMetrics(clock.wall_ms() / 1000), _build(config)), base)


def _build(config: Config) -> Source:
    def write(page: Exposition) -> Iterator[None]:
        labels = ("version", "python", "profile", "flush", "transport")
        family = page.family("rmq_build_info", "gauge", "Always 1; the labels tell.", *labels)
        family.add(1, __version__, platform.python_version(), config.profile, config.flush, config.transport)
        yield

    return write


def _limits(config: Config) -> Limits:
    return Limits(
        message_bytes_max=config.message_bytes_max,
        user_properties_max=config.user_properties_max,
        properties_bytes_max=config.properties_bytes_max,
        invisible_ms_min=config.invisible_ms_min,
        invisible_ms_max=config.invisible_ms_max,
        auto_renew_ms=config.auto_renew_ms,
        poll_ms_min=config.poll_ms_min,
        poll_ms_max=config.poll_ms_max,
        delay_ms_max=config.delay_ms_max,
        receive_batch_max=config.receive_batch_max,
        client_silent_ms=config.client_silent_ms,
        lite_subscriptions_max=config.lite_subscriptions_max,
    )
