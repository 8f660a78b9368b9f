"""`rmq bench`: sends and consumes for a few seconds on a topic of its own, and says how fast it went.

Owns topic and group `rmq-bench` of the server that it is pointed at: messages left there by a run that was stopped are
taken away by the next. The client is Python, in one process: it may be the slower side, so this tells whether a server
works as it should, not what it can do.
"""

import asyncio
import os
import time
from collections.abc import Sequence

import msgspec

from rmq_proxy.messageclient import CallFailed, MessageClient, Received

NAME = "rmq-bench"
HEADER_BYTES = 16  # the run, then the number of the message
RECEIVERS = 4
RECEIVE_BATCH = 32
POLL_S = 5.0
INVISIBLE_S = 60
POLL_ARRIVES_S = 0.01
SEND_TO_RECEIVE_MAX_S = 10.0
ONE_AT_A_TIME_MAX = 200


class Quantiles(msgspec.Struct, frozen=True):
    """Of a list of times."""

    p50_ms: float
    p99_ms: float


class Plan(msgspec.Struct, frozen=True):
    """What to do."""

    endpoint: str
    seconds: float = 3.0
    body_bytes: int = 1024
    batch: int = 1
    at_once: int = 32


class Report(msgspec.Struct, frozen=True):
    """What came of it. `left`: sent and not received in time."""

    plan: Plan
    send_per_s: float
    send_call: Quantiles
    receive_per_s: float
    receive_call: Quantiles
    one_send: Quantiles
    send_to_receive: Quantiles
    sent: int
    received: int
    left: int


def run(plan: Plan) -> Report:
    """Raises CallFailed."""
    return asyncio.run(_measure(plan))


async def _measure(plan: Plan) -> Report:
    name = f"{NAME}@{os.getpid()}@{time.time_ns():x}"
    producer = MessageClient(plan.endpoint, NAME, NAME, f"{name}@p")
    consumer = MessageClient(plan.endpoint, NAME, NAME, f"{name}@c")
    try:
        await producer.start()
        await consumer.start()
        return await Run(plan, producer, consumer).report()
    finally:
        await asyncio.gather(producer.close(), consumer.close())


class Run:
    """One run: three phases, one after the other, so that each rate is of one thing."""

    def __init__(self, plan: Plan, producer: MessageClient, consumer: MessageClient) -> None:
        self.plan = plan
        self.producer, self.consumer = producer, consumer
        self.mark = os.urandom(HEADER_BYTES // 2)
        self.filler = bytes(max(plan.body_bytes - HEADER_BYTES, 0))
        self.sent = self.received = 0

    async def report(self) -> Report:
        """Sends, then receives what was sent, then one message at a time."""
        send_s, send_calls = await self.send_phase()
        count, receive_s, receive_calls = await self.receive_phase()
        ones, ways = await self.one_at_a_time()
        return Report(
            plan=self.plan,
            send_per_s=round(len(send_calls) * self.plan.batch / send_s, 1),
            send_call=quantiles(send_calls),
            receive_per_s=round(count / receive_s, 1),
            receive_call=quantiles(receive_calls),
            one_send=quantiles(ones),
            send_to_receive=quantiles(ways),
            sent=self.sent,
            received=self.received,
            left=self.sent - self.received,
        )

    def bodies(self, count: int) -> list[bytes]:
        """Of the next messages."""
        first = self.sent
        self.sent += count
        return [self.mark + number.to_bytes(8, "big") + self.filler for number in range(first, self.sent)]

    def mine(self, messages: Sequence[Received]) -> int:
        """How many are of this run."""
        return sum(message.body.startswith(self.mark) for message in messages)

    async def send_phase(self) -> tuple[float, list[float]]:
        """Seconds, and those of each call."""
        began_s = time.monotonic()
        calls_s: list[float] = []

        async def sender() -> None:
            while time.monotonic() < began_s + self.plan.seconds:
                before_s = time.monotonic()
                await self.producer.send(self.bodies(self.plan.batch))
                calls_s.append(time.monotonic() - before_s)

        await asyncio.gather(*(sender() for _ in range(self.plan.at_once)))
        return time.monotonic() - began_s, calls_s

    async def receive_phase(self) -> tuple[int, float, list[float]]:
        """Messages, seconds until the last of them, and seconds of each call that brought some.

        Measures for the planned time; then takes away the rest, for three times as long at the most.
        """
        began_s = last_s = time.monotonic()
        calls_s: list[float] = []
        count = 0

        async def receiver() -> None:
            nonlocal last_s, count
            while self.received < self.sent and time.monotonic() < began_s + 4 * self.plan.seconds:
                before_s = time.monotonic()
                messages = await self.take()
                now_s = time.monotonic()
                if messages and now_s < began_s + self.plan.seconds:
                    calls_s.append(now_s - before_s)
                    count += len(messages)
                    last_s = now_s

        receivers = [asyncio.create_task(receiver()) for _ in range(RECEIVERS)]
        await first_done(receivers)
        return count, max(last_s - began_s, 1e-3), calls_s

    async def take(self) -> list[Received]:
        """One receive and one ack."""
        messages = await self.consumer.receive(RECEIVE_BATCH, POLL_S, INVISIBLE_S)
        if messages:
            await self.consumer.ack([message.handle for message in messages])
        self.received += self.mine(messages)
        return messages

    async def one_at_a_time(self) -> tuple[list[float], list[float]]:
        """Seconds of each send, and those from its begin to the arrival at a receiver that waits."""
        sends_s: list[float] = []
        ways_s: list[float] = []
        end_s = time.monotonic() + self.plan.seconds
        while not ways_s or (time.monotonic() < end_s and len(ways_s) < ONE_AT_A_TIME_MAX):
            waiting = asyncio.create_task(self.until_it_comes())
            await asyncio.sleep(POLL_ARRIVES_S)
            began_s = time.monotonic()
            await self.producer.send(self.bodies(1))
            sends_s.append(time.monotonic() - began_s)
            ways_s.append(await self.arrival(waiting) - began_s)
        return sends_s, ways_s

    async def arrival(self, waiting: "asyncio.Task[float]") -> float:
        """When it was. Raises CallFailed."""
        try:
            return await asyncio.wait_for(waiting, SEND_TO_RECEIVE_MAX_S)
        except TimeoutError:
            raise CallFailed(f"a message has not come back within {SEND_TO_RECEIVE_MAX_S:.0f} s") from None

    async def until_it_comes(self) -> float:
        """Receives until one message more of this run has come; when that was."""
        while True:
            messages = await self.consumer.receive(1, POLL_S, INVISIBLE_S)
            now_s = time.monotonic()
            if messages:
                await self.consumer.ack([message.handle for message in messages])
                self.received += self.mine(messages)
            if self.mine(messages):
                return now_s


async def first_done(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Waits until one has ended and cancels the others: they wait for what will not come. Raises what one raised."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def quantiles(times_s: Sequence[float]) -> Quantiles:
    """Zeros for an empty list."""
    ordered = sorted(times_s) or [0.0]
    at = [ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.99)]
    return Quantiles(round(at[0] * 1000, 3), round(at[1] * 1000, 3))


def rows(report: Report) -> list[tuple[str, str, str, str]]:
    """For people: what, messages a second, and the times of a call in milliseconds."""
    lines = (
        ("send", report.send_per_s, report.send_call),
        ("receive and ack", report.receive_per_s, report.receive_call),
        ("send, one at a time", None, report.one_send),
        ("send to receive, one at a time", None, report.send_to_receive),
    )
    return [
        (what, "" if per_s is None else f"{per_s:,.0f}", f"{times.p50_ms:.2f}", f"{times.p99_ms:.2f}")
        for what, per_s, times in lines
    ]
