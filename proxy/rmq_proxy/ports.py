"""Finds out before a transport listens whether it can: one port for all hosts, one clear line where it cannot."""

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from rmq.errors import ConfigError

ATTEMPTS = 20
"""How many free ports of the first host are tried on the others."""

NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, socket.EAI_NONAME, socket.EAI_ADDRFAMILY)


def reserve(hosts: Sequence[str], port: int) -> tuple[list[str], int]:
    """The hosts to listen on and the port that is free on all of them; 0 asks for any.

    `::1` is left out on a machine without IPv6, if there is another host: it is there by default. Nothing is kept open.
    Raises ConfigError.
    """
    for _ in range(ATTEMPTS):
        try:
            return _try(hosts, port)
        except FileExistsError:
            continue  # free on the first host, taken on a later one
    raise ConfigError(f"no port is free on all of {', '.join(hosts)}; choose one with --port")


def _try(hosts: Sequence[str], wanted: int) -> tuple[list[str], int]:
    """One round of `reserve`. Raises FileExistsError when the port that we picked is taken on a later host."""
    usable: list[str] = []
    port = wanted
    with ExitStack() as sockets:
        for host in hosts:
            try:
                bound = sockets.enter_context(_bind(host, port))
            except OSError as error:
                if host == "::1" and len(hosts) > 1 and error.errno in NO_SUCH_ADDRESS:
                    continue
                if wanted == 0 and usable and error.errno == errno.EADDRINUSE:
                    raise FileExistsError(port) from None
                raise ConfigError(_reason(host, port, error)) from None
            usable.append(host)
            port = bound.getsockname()[1]
    return usable, port


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the transports do: TIME_WAIT is no obstacle
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _reason(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use; stop what listens there, or choose another port (--port 0: any free one)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges that we do not have; choose one above 1023 with --port"
    return f"cannot listen on {host}: {error.strerror}; --host takes an address of this machine"
