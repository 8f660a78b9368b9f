"""A broker in this process, without a transport, and what is done to it to be measured."""

import asyncio
import os
import time
from collections.abc import Iterable
from itertools import islice, repeat
from pathlib import Path
from typing import TypeVar

import msgspec

from bench import machine
from rmq.broker import Broker
from rmq.clock import SystemClock
from rmq.config import Config
from rmq.filter import ALL
from rmq.message import LITE_TOPIC, SHARDING_KEY, TIMER_DELIVER_MS, UNIQ_KEY, MessageType, Outgoing
from rmq.port import Answer, ReceiveRequest
from rmq_store.record import encode_properties

T = TypeVar("T")
TOPIC = "figures"
TYPES = {TIMER_DELIVER_MS: MessageType.DELAY, SHARDING_KEY: MessageType.FIFO, LITE_TOPIC: MessageType.LITE}
CALL = 100  # messages
CALLS_ON_THEIR_WAY = 100


def make_broker(data: Path, **settings: object) -> Broker:
    """A broker in this process."""
    config = msgspec.structs.replace(Config(data=str(data), flush="fast", disk_free_min_bytes=0), **settings)
    return Broker(config, SystemClock(), asyncio.get_running_loop())


async def settled(answer: Answer[T]) -> T:
    """What it is, or will be."""
    return await answer if isinstance(answer, asyncio.Future) else answer


def message(number: int, body: bytes, kind: str = "", value: str = "", topic: str = TOPIC) -> Outgoing:
    """A normal one, or of the type that the property `kind` makes it."""
    message_id = f"{number:034}"
    properties = {UNIQ_KEY: message_id} | ({kind: value} if kind else {})
    return Outgoing(
        topic, body, message_id, encode_properties(properties), TYPES.get(kind, MessageType.NORMAL), "", 0,
        message_group=value if kind == SHARDING_KEY else "", lite_topic=value if kind == LITE_TOPIC else "",
    )  # fmt: skip


async def send(broker: Broker, messages: Iterable[Outgoing]) -> None:
    """In calls of 100, of which some may be on their way."""
    left, calls, answer = iter(messages), 0, None
    while batch := list(islice(left, CALL)):
        answer = broker.send(batch)
        calls += 1
        if calls % CALLS_ON_THEIR_WAY == 0:
            await settled(answer)
    if answer is not None:
        await settled(answer)


async def fill(broker: Broker, count: int, body: bytes, topic: str = TOPIC) -> None:
    """Sends the same normal message `count` times."""
    await send(broker, repeat(message(0, body, topic=topic), count))


def request(group: str, batch: int, poll_ms: int = 0, topic: str = TOPIC) -> ReceiveRequest:
    """A receive."""
    return ReceiveRequest(group, topic, topic, ALL, batch, 600_000, poll_ms)


async def consume_us(broker: Broker, group: str, receives: int, topic: str = TOPIC) -> float:
    """CPU microseconds a message, taken 32 at a time and acknowledged in one call."""
    before, messages = time.process_time(), 0
    for _ in range(receives):
        taken = broker.receive(request(group, 32, topic=topic))
        assert not isinstance(taken, asyncio.Future)
        messages += len(taken)
        await settled(broker.ack(group, topic, [one.handle for one in taken]))
    return (time.process_time() - before) / messages * 1e6


def anonymous_mib() -> float:
    """Of this process: not the pages of the log that reading has mapped."""
    return machine.memory_mib([os.getpid()])["anonymous_mib"]
