"""Fixtures of the transport tests."""

import asyncio
from collections.abc import Awaitable, Iterator

import pytest

from tests.proxy.transports import TRANSPORTS, Maker, Run, T


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all: grpc.aio serves one loop a process well, and a loop for each test badly."""
    with asyncio.Runner() as one:
        yield one


@pytest.fixture
def run(runner: asyncio.Runner) -> "Run[T]":
    """Runs a scenario, for a minute at the most."""

    async def bounded(scenario: Awaitable[T]) -> T:
        return await asyncio.wait_for(scenario, 60)

    return lambda scenario: runner.run(bounded(scenario))


@pytest.fixture(params=list(TRANSPORTS))
def make(request: pytest.FixtureRequest) -> Maker:
    """A transport to be, with grpcio's client."""
    return Maker(TRANSPORTS[request.param])
