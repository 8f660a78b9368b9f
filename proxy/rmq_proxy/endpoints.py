"""Decides which address a route answers, so that mapped ports, containers and tunnels just work.

In this order: the operator's --advertise, the endpoints that the client itself named in the request, the :authority it
dialled, and where the transport does not tell that one (grpc.aio), the address that we listen on. Apache in Local mode
answers the broker's own address instead and so sends clients to a port that they cannot reach (facts: grpc.md 6.2,
users-and-peers.md 1c).
"""

import re
import socket

from rmq.config import parse_endpoint
from rmq.errors import ClientError, Code, ConfigError
from rmq_proto import v2
from rmq_proxy.rpc import Call

HTTP_PORT = 80
HTTPS_PORT = 443
LOOPBACK = "127.0.0.1"
_HOST = re.compile(r"[^\x00-\x20\x7f-\x9f]{1,255}")
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


class Advertiser:
    """Chooses the endpoints of a route; raises ConfigError when `advertise` is no HOST:PORT."""

    def __init__(self, advertise: str | None) -> None:
        self._fixed: v2.Endpoints | None = None
        self._listening: v2.Endpoints | None = None
        if advertise:
            try:
                self._fixed = endpoints_of(*parse_endpoint(advertise))
            except ValueError as error:
                raise ConfigError(f"advertise {advertise!r} is not HOST:PORT: {error}") from None

    def listens_on(self, host: str, port: int) -> None:
        """Where the server is reached from its own machine; all addresses (0.0.0.0, ::, empty) mean loopback."""
        self._listening = endpoints_of(LOOPBACK if host in EVERYWHERE else host, port)

    def choose(self, named: v2.Endpoints, call: Call) -> v2.Endpoints:
        """`named` is the request's `endpoints`, empty where it has none. Raises ILLEGAL_ACCESS_POINT."""
        if self._fixed is not None:
            return self._fixed
        if named.addresses:
            return checked(named)
        if not call.authority and self._listening is not None:
            return self._listening
        return dialled(call)


def checked(named: v2.Endpoints) -> v2.Endpoints:
    """The client's own endpoints, with what SDKs insist on: a scheme, and one address where it is a domain name.

    Raises ILLEGAL_ACCESS_POINT for a host that cannot be one, or a port that does not exist.
    """
    for address in named.addresses:
        if not _HOST.fullmatch(address.host) or not 1 <= address.port <= 65535:
            text = f"illegal access point {address.host[:80]!r}, port {address.port}; name host and port in `endpoints`"
            raise ClientError(Code.ILLEGAL_ACCESS_POINT, text)
    if named.scheme in (v2.IPv4, v2.IPv6) or (named.scheme == v2.DOMAIN_NAME and len(named.addresses) == 1):
        return named
    return endpoints_of(named.addresses[0].host, named.addresses[0].port)


def dialled(call: Call) -> v2.Endpoints:
    """From :authority; one without a port means the scheme's own. Raises ILLEGAL_ACCESS_POINT when it names no host."""
    try:
        return endpoints_of(*parse_endpoint(call.authority))
    except ValueError:
        host = call.authority.strip("[]")
    if not host or "/" in host or host.count(":") == 1:
        text = f"cannot tell which address you dialled (:authority {call.authority[:80]!r}); name it in `endpoints`"
        raise ClientError(Code.ILLEGAL_ACCESS_POINT, text)
    return endpoints_of(host, HTTPS_PORT if call.tls else HTTP_PORT)


def endpoints_of(host: str, port: int) -> v2.Endpoints:
    """One address with its scheme; `host` is without brackets."""
    endpoints = v2.Endpoints()
    endpoints.scheme = scheme_of(host)
    address = endpoints.addresses.add()
    address.host = host
    address.port = port
    return endpoints


def scheme_of(host: str) -> int:
    """IPv4, IPv6 or DOMAIN_NAME."""
    for family, scheme in ((socket.AF_INET, v2.IPv4), (socket.AF_INET6, v2.IPv6)):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):  # ValueError: a zero byte, or letters that no address has
            continue
        return scheme
    return v2.DOMAIN_NAME
