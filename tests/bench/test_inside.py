"""What is measured inside rmq, in small."""

import asyncio
from pathlib import Path

from bench import inside
from rmq.broker import Broker


def test_messages_are_filled_in_and_consumed(tmp_path: Path) -> None:
    """32 at a time; the cost is that of one message."""

    async def measured() -> float:
        broker = inside.make_broker(tmp_path / "data")
        await inside.fill(broker, 200, b"x")
        cost_us = await inside.consume_us(broker, "g", 6)
        assert len(await rest(broker)) == 200 - 6 * 32
        broker.close()
        return cost_us

    async def rest(broker: Broker) -> list[object]:
        taken = broker.receive(inside.request("g", 32))
        return list(await taken if isinstance(taken, asyncio.Future) else taken)

    assert 0 < asyncio.run(measured()) < 1e5


def test_memory_is_this_process_s_own() -> None:
    """A hundred MiB more are about a hundred MiB more, whatever else the process frees meanwhile."""
    before = inside.anonymous_mib()
    kept = bytearray(b"x" * (100 << 20))
    assert 80 < inside.anonymous_mib() - before < 120
    assert len(kept) == 100 << 20
