"""Serves a table of calls natively: HTTP/2 on an asyncio.Protocol, TLS and plaintext and HTTP/1.1 on one port.

Owns the sockets it listens on and counts its connections. Promises all that the reference promises (see
grpcio_transport), and `Call.authority` and TLS besides; every bound is in Limits. What is spoken on a connection:
native/front; the protocol: http2/; the calls: native/calls.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

from rmq.errors import ConfigError
from rmq.metrics import Exposition
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native.certificates import Certificates
from rmq_proxy.native.front import Front
from rmq_proxy.native.pages import PortPages
from rmq_proxy.native.site import Site
from rmq_proxy.ports import reserve
from rmq_proxy.rpc import Gate, Table
from rmq_proxy.scrape import Scrape

TlsMode: TypeAlias = Literal["disabled", "permissive", "enforcing"]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

TICK_S = 1.0
DRAIN_S = 0.1
"""How long after the first GOAWAY the last one follows, for a client that does not answer our PING."""
BACKLOG = 1024


class NativeTransport:
    """One port for one table. An inbound message beyond `request_bytes_max` ends in RESOURCE_EXHAUSTED.

    `certificates` None: no TLS. `tls_mode` enforcing: no calls without it. `proxies`: networks whose PROXY headers are
    believed. `scrape`: what GET /metrics answers; our own counters are added to it.
    """

    def __init__(
        self,
        table: Table,
        gate: Gate,
        *,
        request_bytes_max: int,
        log: logging.Logger,
        limits: Limits | None = None,
        tls_mode: TlsMode = "permissive",
        certificates: Certificates | None = None,
        proxies: Sequence[str] = (),
        scrape: Scrape | None = None,
        metrics_for_all: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        scrape = scrape or Scrape(asyncio.get_running_loop().time)
        scrape.add(self.source)
        self.tls_required = tls_mode == "enforcing"
        self.stopping = False
        self._certificates = certificates if tls_mode != "disabled" else None
        self._proxies = [ipaddress.ip_network(network) for network in proxies]
        self.site = Site(
            table,
            gate,
            PortPages(lambda: not self.stopping, scrape.answer, metrics_for_all=metrics_for_all),
            limits=self.limits,
            request_bytes_max=request_bytes_max,
            log=log,
            loop=asyncio.get_running_loop(),
        )
        self._loop = self.site.loop
        self._servers: list[asyncio.Server] = []
        self._fronts: dict[Front, None] = {}
        self._per_host: dict[str, int] = {}
        self._handshakes = 0
        self._due: list[Front] = []
        self._lively: dict[Front, None] = {}  # they tick
        self._held: dict[Front, int] = {}  # bytes of answers that clients do not take, where there are any
        self._held_bytes = 0
        self._calming = False  # `_calm` is on its way
        self._calmed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._accepted = 0
        self._turned_away = 0
        self._unshaken = 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate; empty without TLS."""
        return self._certificates.fingerprint if self._certificates is not None else ""

    # ---- Start and stop ----

    async def start(self, hosts: Sequence[str], port: int) -> int:
        """Listens on every host at one port and returns it; 0 picks one that is free on all.

        `::1` is left out on a machine without IPv6. Raises ConfigError when the port is taken or a host is not ours.
        """
        usable, port = reserve(hosts, port)
        for host in dict.fromkeys(map(listenable, usable)):
            for bound in _bind(host, port):
                self._servers.append(await self._loop.create_server(lambda: Front(self), sock=bound, backlog=BACKLOG))
        self._timer = self._loop.call_later(TICK_S, self._tick)
        return port

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, ends the streams, gives the rest `grace_s` seconds, then cancels it and closes."""
        if not self._servers:
            return
        self.stopping = True
        for server in self._servers:
            server.close()
        self._each(Front.drain)
        await self._until_empty(min(DRAIN_S, grace_s))
        self._each(Front.refuse)
        await self._until_empty(grace_s - DRAIN_S)
        self._each(Front.give_up)
        await self._until_empty(DRAIN_S)
        self._each(Front.abort)
        await self._until_empty(DRAIN_S)
        self._servers.clear()
        self.site.deadlines.close()
        if self._timer is not None:
            self._timer.cancel()

    def _each(self, act: Callable[[Front], None]) -> None:
        for front in tuple(self._fronts):
            act(front)

    async def _until_empty(self, within_s: float) -> None:
        """Waits until no connection is left."""
        self._empty.clear()
        if self._fronts and within_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within_s)

    def _tick(self) -> None:
        now_s = self._loop.time()
        self._timer = self._loop.call_later(TICK_S, self._tick)
        if self._certificates is not None:
            self._certificates.refresh(now_s)
        self._tick_some(list(self._lively), now_s)

    def _tick_some(self, fronts: list[Front], now_s: float) -> None:
        """A few in each turn of the loop: there may be 20,000."""
        count = self.limits.ticks_a_turn
        for front in fronts[-count:]:
            if not front.tick(now_s):
                front.lively = False
                self._lively.pop(front, None)
        del fronts[-count:]
        if fronts and not self.stopping:
            self._loop.call_soon(self._tick_some, fronts, now_s)

    # ---- What a connection asks: see front.House ----

    def admit(self, front: Front, host: str) -> bool:
        """See House."""
        limits, count = self.limits, self._per_host.get(host, 0)
        counted = not self._uncounted(host)
        if len(self._fronts) >= limits.connections_max or (counted and count >= limits.connections_per_address_max):
            self._turned_away += 1
            return False
        self._fronts[front] = None
        self._per_host[host] = count + 1
        self._accepted += 1
        return True

    def forget(self, front: Front) -> None:
        """See House."""
        if front not in self._fronts:
            return
        del self._fronts[front]
        self._lively.pop(front, None)
        self.hold(front, 0)
        self._per_host[front.host] -= 1
        if not self._per_host[front.host]:
            del self._per_host[front.host]
        if not self._fronts:
            self._empty.set()

    def trusts(self, host: str) -> bool:
        """See House."""
        return bool(self._proxies) and any(_address(host) in network for network in self._proxies)

    def _uncounted(self, host: str) -> bool:
        return host.startswith("127.") or host == "::1" or self.trusts(host)

    def tls_context(self) -> ssl.SSLContext | None:
        """See House."""
        if self._certificates is None:
            return None
        if self._handshakes >= self.limits.handshakes_max:
            self._unshaken += 1
            return None
        self._handshakes += 1
        return self._certificates.context

    def handshake_over(self, front: Front) -> None:
        """See House."""
        self._handshakes -= 1

    def due(self, front: Front) -> None:
        """See House."""
        if not self._due:
            self._loop.call_soon(self._flush)
        self._due.append(front)

    def _flush(self) -> None:
        due, self._due = self._due, []
        for front in due:
            front.flush()

    def stir(self, front: Front) -> None:
        """See House."""
        self._lively[front] = None

    def hold(self, front: Front, held_bytes: int) -> None:
        """See House. Beyond the limit for all connections those that hold most are ended, in a turn of its own."""
        self._held_bytes += held_bytes - self._held.pop(front, 0)
        if held_bytes:
            self._held[front] = held_bytes
            if self._held_bytes > self.limits.answer_bytes_total_max and not self._calming:
                self._calming = True
                self._loop.call_soon(self._calm)

    def _calm(self) -> None:
        self._calming = False
        while self._held and self._held_bytes > self.limits.answer_bytes_total_max:
            front = max(self._held, key=self._held.__getitem__)
            self.hold(front, 0)
            self._calmed += front.calm("too many bytes of answers wait for clients to read them, most of them for you")

    def source(self, page: Exposition) -> Iterator[None]:
        """See metrics.Source."""
        page.value("rmq_connections", "gauge", "Connections that are open.", len(self._fronts))
        page.value("rmq_connections_accepted_total", "counter", "Connections that were let in.", self._accepted)
        page.value(
            "rmq_connections_turned_away_total", "counter", "Connections beyond a limit, closed.", self._turned_away
        )
        ended = page.family("rmq_connections_ended_total", "counter", "Connections that we ended.", "reason")
        for reason, count in self.site.endings.items():
            ended.add(count, reason)
        page.value("rmq_tls_handshakes", "gauge", "TLS handshakes under way.", self._handshakes)
        page.value(
            "rmq_tls_handshakes_turned_away_total", "counter", "Handshakes beyond handshakes_max.", self._unshaken
        )
        page.value("rmq_unfinished_request_bytes", "gauge", "Bytes of requests in parts.", self.site.held_bytes)
        page.value("rmq_untaken_answer_bytes", "gauge", "Bytes of answers that clients do not read.", self._held_bytes)
        page.value(
            "rmq_connections_ended_for_untaken_answers_total", "counter", "Connections that held most.", self._calmed
        )
        yield


def listenable(host: str) -> str:
    """Both wildcards become one, a socket for both families, where the machine has both."""
    if host.strip("0.:"):
        return host
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - the operator asked for it


def _bind(host: str, port: int) -> list[socket.socket]:
    """One socket for each address that `host` stands for. Raises ConfigError."""
    addresses = dict.fromkeys(
        (family, address) for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    bound: list[socket.socket] = []
    for family, address in addresses:
        one = socket.socket(family, socket.SOCK_STREAM)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            one.bind(address)
            one.setblocking(False)
        except OSError:
            one.close()
            if bound or len(addresses) > 1:
                continue  # a name whose other address serves
            raise ConfigError(f"port {port} on {host} was taken while we started; choose another with --port") from None
        bound.append(one)
    return bound


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(host.partition("%")[0])
