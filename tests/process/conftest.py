"""Servers that get the worst of it, one a profile; after each test they must serve others as before."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.process import wire
from tests.process.client import Client
from tests.serving import Server

ENV = {"RMQ_POLL_MS_MIN": "0", "RMQ_REQUEST_BYTES_MAX": "8MiB"}
NUMBERS = count(1)


class Bystander:
    """Another client of the server, connected before a test begins."""

    def __init__(self, server: Server, topic: str, group: str) -> None:
        self.server = server
        self.topic, self.group = topic, group
        self.client = Client(server.endpoint)
        self.is_served()

    def is_served(self) -> None:
        """Its message goes through, and the server has nothing to complain about itself."""
        body = b"%d" % next(NUMBERS)
        assert self.client.send(wire.message(self.topic, body)).status.code == 20000
        received = self.client.receive(wire.receive(self.topic, self.group, poll_ms=5000))
        assert received.bodies == [body], received.text
        assert self.client.ack(self.topic, self.group, *received.handles).status.code == 20000
        assert complaints(self.server) == []


def complaints(server: Server) -> list[str]:
    """What a server prints only when it is at fault itself."""
    lines = (server.home / "stderr").read_text(errors="replace").splitlines()
    return [line for line in lines if "Traceback" in line or "Error:" in line or "ERROR" in line]


@pytest.fixture(scope="session")
def dev_bystander() -> Iterator[Bystander]:
    """Of a server with profile dev."""
    with Server("--flush", "fast", env=ENV) as server:
        yield Bystander(server, "bystander", "bystander")


@pytest.fixture(scope="session")
def strict_bystander() -> Iterator[Bystander]:
    """Of a server with profile strict, that has the bystander's topic and group and nothing else."""
    flags = ("--profile", "strict", "--topic", "bystander", "--group", "bystander")
    with Server("--flush", "fast", *flags, env=ENV) as server:
        yield Bystander(server, "bystander", "bystander")


@pytest.fixture
def dev(dev_bystander: Bystander) -> Iterator[Client]:
    """A client of a server with profile dev, which serves others after the test as before."""
    yield from unharmed(dev_bystander)


@pytest.fixture
def strict(strict_bystander: Bystander) -> Iterator[Client]:
    """The same with profile strict."""
    yield from unharmed(strict_bystander)


def unharmed(bystander: Bystander) -> Iterator[Client]:
    """A client for one test."""
    client = Client(bystander.server.endpoint)
    yield client
    client.close()
    bystander.is_served()


@pytest.fixture
def topic() -> str:
    """A name that no other test uses."""
    return f"topic-{next(NUMBERS)}"
