"""What is measured inside rmq, in small."""

import asyncio
from pathlib import Path

from bench import figures
from rmq.broker import Broker


def test_messages_are_filled_in_and_consumed(tmp_path: Path) -> None:
    """32 at a time; the cost is that of one message."""

    async def measured() -> float:
        broker = figures.make_broker(tmp_path / "data")
        await figures.fill(broker, 200, b"x")
        cost_us = await figures.consume_us(broker, "g", 6)
        assert len(await rest(broker)) == 200 - 6 * 32
        broker.close()
        return cost_us

    async def rest(broker: Broker) -> list[object]:
        taken = broker.receive(figures.request("g", 32))
        return list(await taken if isinstance(taken, asyncio.Future) else taken)

    assert 0 < asyncio.run(measured()) < 1e5


def test_memory_is_this_process_s_own() -> None:
    """Ten MiB more are ten MiB more."""
    before = figures.anonymous_mib()
    kept = bytearray(b"x" * (10 << 20))
    assert 9 < figures.anonymous_mib() - before < 13
    assert len(kept) == 10 << 20
