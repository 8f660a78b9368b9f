"""What many take that wait: message groups whose front is out, and lite topics under one parent."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from bench.book import Line
from bench.inside import anonymous_mib, consume_us, fill, make_broker, message, request, send, settled
from bench.stand import Stand
from rmq.broker import Broker
from rmq.config import TopicSetting
from rmq.message import LITE_TOPIC, SHARDING_KEY, MessageType, Outgoing
from rmq.port import LiteSync

BODY = bytes(10)
SAVED_S = 10.0  # a checkpoint of them is written by then, and its memory free
FIFO, LITES = "fifo", "lites"
PARKED, PARKED_GROUPS = 1_000_000, 10_000
GROUPS, BLOCKED = 100_000, 10_000
FREE_MESSAGES = 20_000
LITE_TOPICS, LITES_A_CLIENT = 100_000, 1_000


async def parked(_stand: Stand, folder: Path) -> list[Line]:
    """Memory of a million messages that wait for the one before them in their message group."""
    broker = _fifo_broker(folder / "data")
    await send(broker, _in_groups(PARKED, PARKED_GROUPS, 0))
    await asyncio.sleep(SAVED_S)
    before = anonymous_mib()
    await _pass_over(broker, PARKED)
    await asyncio.sleep(SAVED_S)
    used_mib = anonymous_mib() - before
    broker.close()
    return [Line("1 M parked messages of 10,000 message groups", used_mib, "MiB", "100 MB")]


async def blocked(_stand: Stand, folder: Path) -> list[Line]:
    """Whether a receive feels message groups that are blocked: none, or 10,000 of 100,000."""
    costs_us = []
    for count in (0, BLOCKED):
        broker = _fifo_broker(folder / f"data{count}")
        await send(broker, _in_groups(2 * count, max(count, 1), 0))
        await _pass_over(broker, 2 * count)
        await send(broker, _in_groups(FREE_MESSAGES, GROUPS - count, count))
        costs_us.append(sorted([await consume_us(broker, "g", 60, FIFO) for _ in range(9)])[4])
        broker.close()
    return [
        Line("receive + ack, 100,000 message groups, none blocked", costs_us[0], "us/message"),
        Line("the same, 10 % blocked", costs_us[1], "us/message"),
        Line("the same, more for those that are blocked", 100 * (costs_us[1] / costs_us[0] - 1), "%", "20 %"),
    ]


async def lites(_stand: Stand, folder: Path) -> list[Line]:
    """Memory of 100,000 lite topics under one parent: subscribed, then with a message each."""
    broker = make_broker(folder / "data", topics={LITES: TopicSetting(MessageType.LITE, 8)})
    await fill(broker, 200_000, BODY)  # what any load takes is there before
    await asyncio.sleep(SAVED_S)
    before = anonymous_mib()
    names = [f"device-{number:06}" for number in range(LITE_TOPICS)]
    for start in range(0, LITE_TOPICS, LITES_A_CLIENT):
        its = names[start : start + LITES_A_CLIENT]
        await settled(broker.sync_lite(LiteSync("g", LITES, f"client-{start}", "add", its)))
    await asyncio.sleep(SAVED_S)
    subscribed_mib = anonymous_mib() - before
    await send(broker, (message(n, BODY, LITE_TOPIC, name, LITES) for n, name in enumerate(names)))
    await asyncio.sleep(SAVED_S)
    used_mib = anonymous_mib() - before
    broker.close()
    return [
        Line("100,000 lite topics that are subscribed", subscribed_mib, "MiB", "150 MB"),
        Line("the same, with a message each", used_mib, "MiB", "150 MB"),
    ]


def _fifo_broker(data: Path) -> Broker:
    return make_broker(data, topics={FIFO: TopicSetting(MessageType.FIFO, 1)}, parked_max=2 * PARKED)


def _in_groups(count: int, groups: int, first: int) -> Iterator[Outgoing]:
    """`count` messages in turn of message groups `first` and on."""
    return (message(n, BODY, SHARDING_KEY, f"group-{first + n % groups}", FIFO) for n in range(count))


async def _pass_over(broker: Broker, count: int) -> None:
    """Receives until the consumer group has looked at as many: fronts are out then, all else is parked."""
    next_offset = 0
    while next_offset < count:
        for _ in range(100):
            await settled(broker.receive(request("g", 32, topic=FIFO)))
            await asyncio.sleep(0)
        next_offset = broker.admin.group_info("g").topics[0].places[0].next_offset
