"""Which port the transports get, and what the operator is told when they get none."""

import errno
import os
import socket

import pytest

from rmq.errors import ConfigError
from rmq_proxy import ports


class Refusing:
    """Stands before the real bind: refuses a host with an errno, at most `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, host: str, number: int, times: int = 1000) -> None:
        self.real, self.host, self.number, self.times = ports._bind, host, number, times
        monkeypatch.setattr(ports, "_bind", self)

    def __call__(self, host: str, port: int) -> socket.socket:
        if host == self.host and self.times > 0:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))
        return self.real(host, port)


def test_no_ipv6_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both loopbacks are the default; a machine without IPv6 is served on the other one."""
    Refusing(monkeypatch, "::1", errno.EADDRNOTAVAIL)
    hosts, port = ports.reserve(["127.0.0.1", "::1"], 0)
    assert hosts == ["127.0.0.1"]
    assert port > 0


def test_no_ipv6_but_nothing_else_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for ::1 alone is told that there is none."""
    Refusing(monkeypatch, "::1", errno.EADDRNOTAVAIL)
    with pytest.raises(ConfigError, match="cannot listen on ::1"):
        ports.reserve(["::1"], 0)


def test_picks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A free port of the first host that is taken on the second is given up for another."""
    Refusing(monkeypatch, "127.0.0.2", errno.EADDRINUSE, times=3)
    hosts, port = ports.reserve(["127.0.0.1", "127.0.0.2"], 0)
    assert hosts == ["127.0.0.1", "127.0.0.2"]
    assert port > 0


def test_picks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for ever."""
    Refusing(monkeypatch, "127.0.0.2", errno.EADDRINUSE)
    with pytest.raises(ConfigError, match=r"no port is free on all of 127\.0\.0\.1, 127\.0\.0\.2"):
        ports.reserve(["127.0.0.1", "127.0.0.2"], 0)


def test_privileged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that needs root says so."""
    Refusing(monkeypatch, "127.0.0.1", errno.EACCES)
    with pytest.raises(ConfigError, match=r"port 80 on 127\.0\.0\.1 needs privileges"):
        ports.reserve(["127.0.0.1"], 80)


def test_no_such_host() -> None:
    """A name that does not resolve is one line, not a traceback."""
    with pytest.raises(ConfigError, match=r"cannot listen on nowhere\.invalid: "):
        ports.reserve(["nowhere.invalid"], 0)


def test_given_port_is_kept() -> None:
    """A port that was asked for is the one on every host, and free afterwards."""
    _, port = ports.reserve(["127.0.0.1"], 0)
    assert ports.reserve(["127.0.0.1", "127.0.0.2"], port) == (["127.0.0.1", "127.0.0.2"], port)
