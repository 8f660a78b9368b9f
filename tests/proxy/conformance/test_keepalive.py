"""Clients that ping as often as their stack lets them are answered and never sent away."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from rmq_proxy.http2.frames import ACK, GOAWAY, PING
from tests.clients.builders import STACKS
from tests.clients.conftest import open_driver
from tests.clients.harness import eventually
from tests.proxy.stacks import GRPCIO, Driven, Options, Stack
from tests.proxy.transports import TRANSPORTS, Maker, Run, Streams, serving
from tests.relay import Relay, frames

pytestmark = [pytest.mark.foreign, pytest.mark.slow]

FASTEST_MS = {"grpc-go": 10_000, "grpc-java": 10_000, "grpc-js": 200, "tonic": 200, GRPCIO.name: 200}
"""grpc-go and grpc-java take nothing below ten seconds."""
PINGS = {"grpc-go": 2, "grpc-java": 2}
PINGS_OF_OTHERS = 10
WITHIN_S = 60


@pytest.fixture
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stack]]:
    """All at once: the slow ones ping side by side."""
    with ExitStack() as running:
        found: list[Stack] = [GRPCIO]
        for language in STACKS:
            driver = running.enter_context(open_driver(language, tmp_path_factory.mktemp(language.name)))
            found.append(Driven(language.name, driver))
        yield found


def pings(relay: Relay) -> int:
    """How many its one client has sent."""
    return sum(kind == PING and not flags & ACK for kind, flags in frames(relay.up[0]))


async def ping(make: Maker) -> None:
    """An open stream without a message outlives its client's pings, and still carries messages."""
    name, streams = make.stack.name, Streams()
    async with AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(make, streams.row))
        relay = opened.enter_context(Relay(server.port))
        options = Options(keepalive_ms=FASTEST_MS[name])
        channel = await make.stack.connect(f"127.0.0.1:{relay.port}", options)
        opened.push_async_callback(channel.close)
        call = await channel.open(streams.row.path)
        await call.headers()
        wanted = PINGS.get(name, PINGS_OF_OTHERS)
        await asyncio.to_thread(eventually, lambda: pings(relay) >= wanted, WITHIN_S, f"{wanted} pings of {name}")
        await call.write(b"still here")
        assert await call.read() == b"STILL HERE"
        assert len(relay.up) == 1
        assert GOAWAY not in [kind for kind, _ in frames(relay.down[0])]


def test_keepalive(run: "Run[None]", runner: asyncio.Runner, stacks: list[Stack]) -> None:
    """Two pings of each stack that allows one in ten seconds, ten of the others, on both transports."""

    async def scenario() -> None:
        makers = [Maker(transport, stack) for transport in TRANSPORTS.values() for stack in stacks]
        await asyncio.gather(*map(ping, makers))

    runner.run(scenario())
