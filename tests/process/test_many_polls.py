"""Receives that wait, more of them than any client of ours ever had."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias, cast

import grpc.aio
import psutil
import pytest

from tests.process import wire
from tests.process.client import Received
from tests.process.conftest import Bystander
from tests.serving import Server

GROUPS = 10
PER_GROUP_MAX = 1024
ENV = {"RMQ_POLL_MS_MAX": "120000", "RMQ_POLL_MS_MIN": "0"}
WITHIN_S = 60.0
ANSWER_WITHIN_S = 2.0
TRIES = 3  # another program may take the processor, but not each time

Polls: TypeAlias = "set[asyncio.Task[Received]]"


def begin(channel: grpc.aio.Channel, group: str, number: int) -> Polls:
    """Polls of two minutes, on one connection."""
    method = cast("Callable[..., AsyncIterator[bytes]]", channel.unary_stream(wire.SERVICE + "ReceiveMessage"))
    request = wire.receive("many", group, poll_ms=120_000).SerializeToString()

    async def poll() -> Received:
        return Received([answer async for answer in method(request, timeout=130, metadata=wire.METADATA)])

    return {asyncio.create_task(poll()) for _ in range(number)}


async def next_answer(polls: Polls) -> Received:
    """The one poll that is answered now; it is taken out."""
    done, _ = await asyncio.wait(polls, timeout=WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    answered = done.pop()
    polls.discard(answered)
    return answered.result()


async def serving_s(bystander: Bystander) -> float:
    """How long a message takes there and back."""
    began_s = time.monotonic()
    await asyncio.to_thread(bystander.is_served)
    return time.monotonic() - began_s


async def polls_wait(bystander: Bystander, groups: int) -> None:
    """All that this file promises, with that many groups at their limit."""
    channels = [grpc.aio.insecure_channel(bystander.server.endpoint, [("n", i)]) for i in range(groups)]
    before_bytes = psutil.Process(bystander.server.pid).memory_info().rss
    waiting = {f"g{i}": begin(channel, f"g{i}", PER_GROUP_MAX + 1) for i, channel in enumerate(channels)}
    for polls in waiting.values():
        refused = await next_answer(polls)
        assert (refused.code, refused.messages, refused.whole) == (42900, [], True)
        assert "polling full" in refused.text
    grown_bytes = psutil.Process(bystander.server.pid).memory_info().rss - before_bytes
    print(f"{grown_bytes / groups / PER_GROUP_MAX:.0f} bytes a waiting poll, grpcio's part included")

    assert any([await serving_s(bystander) < ANSWER_WITHIN_S for _ in range(TRIES)])

    await asyncio.to_thread(bystander.client.send, wire.message("many", b"wake"))
    for polls in waiting.values():
        assert (await next_answer(polls)).bodies == [b"wake"]

    for channel in channels:
        await channel.close()
    for polls in waiting.values():
        await asyncio.gather(*polls, return_exceptions=True)
    await asyncio.to_thread(bystander.is_served)
    await asyncio.to_thread(bystander.client.send, wire.message("many", b"after"))
    request = wire.receive("many", "g0", poll_ms=5000)
    received = await asyncio.to_thread(bystander.client.receive, request)
    assert received.bodies == [b"after"], "it went to a poll whose client is gone"


@pytest.mark.parametrize("groups", [1, pytest.param(GROUPS, marks=pytest.mark.slow)])
def test_polls_without_number_wait_and_others_are_served(groups: int) -> None:
    """Each group has 1,024, the one above is told so; a bystander has its answers as before.

    A message wakes one poll of each group; all go when their clients do, and nothing is given to them any more.
    """
    with Server("--flush", "fast", env=ENV) as server:
        bystander = Bystander(server, "bystander", "bystander")
        asyncio.run(polls_wait(bystander, groups))
        bystander.client.close()
