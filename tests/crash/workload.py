"""Clients that send, recall, receive, acknowledge and give back, many calls in flight, and write it all into a History.

Owns the calls and what is made of their answers: OK, refused, or cut off. Promises: no call begins after `stop`, and a
call that is cut off before it is an error. Knows nothing of processes (runner.py kills them) and judges nothing
(history.py does).
"""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar, cast

import grpc
import grpc.aio

from rmq_proto import v2
from tests.crash.history import Ack, Delivery, History, Outcome, Recall, Release, Send
from tests.process import wire

OK, MULTIPLE, NOTHING_NEW = 20000, 30000, 40401
INVISIBLE_MS = 1500
CALL_TIMEOUT_S = 20.0
SENDERS, RECEIVERS = 16, 3  # in flight; receivers are for each topic and group
BATCH_MAX, BODY_BYTES_MAX = 4, 8192
DELAYED, DELAYS_MS, RECALLED = 0.2, (1, 100, 1000, 2500), 0.3  # how many are delayed, by how much, and recalled

R = TypeVar("R")
Unary = Callable[..., Awaitable[bytes]]
Listing = Callable[..., AsyncIterator[bytes]]


def now_ms() -> int:
    """The wall clock, which the server shares."""
    return time.time_ns() // 1_000_000


def digest(body: bytes) -> bytes:
    """Tells bodies apart."""
    return hashlib.blake2b(body, digest_size=8).digest()


class Workload:
    """The clients of one life of the server; `life` makes their message ids unlike those of any other."""

    def __init__(self, endpoint: str, history: History, topics: Sequence[str], rng: random.Random, life: int) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint, [("grpc.use_local_subchannel_pool", 1)])
        self._send = cast(Unary, self._channel.unary_unary(wire.SERVICE + "SendMessage"))
        self._receive = cast(Listing, self._channel.unary_stream(wire.SERVICE + "ReceiveMessage"))
        self._ack = cast(Unary, self._channel.unary_unary(wire.SERVICE + "AckMessage"))
        self._recall = cast(Unary, self._channel.unary_unary(wire.SERVICE + "RecallMessage"))
        self._change = cast(Unary, self._channel.unary_unary(wire.SERVICE + "ChangeInvisibleDuration"))
        self._history = history
        self._topics = topics
        self._rng = rng
        self._life = life
        self._sent = 0
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Until `stop`, and the end of the calls that are in flight then."""
        senders = [self._sender() for _ in range(SENDERS)]
        pairs = [(topic, group) for topic in self._topics for group in self._history.groups]
        receivers = [self._receiver(*pair) for pair in pairs for _ in range(RECEIVERS)]
        await asyncio.gather(*senders, *receivers)
        await self._channel.close()

    def stop(self) -> None:
        """Begins no further call."""
        self._over.set()

    async def drain(self, quiet_s: float) -> None:
        """Settles all that comes, for every topic and group, until none has anything for `quiet_s`."""
        await asyncio.gather(*(self._drain(t, g, quiet_s) for t in self._topics for g in self._history.groups))
        await self._channel.close()

    async def _drain(self, topic: str, group: str, quiet_s: float) -> None:
        quiet_since_s = time.monotonic()
        while not self._over.is_set() and time.monotonic() - quiet_since_s < quiet_s:
            handles = await self._take(topic, group)
            if handles:
                await self._settle(topic, group, handles)
                quiet_since_s = time.monotonic()

    async def _sender(self) -> None:
        while not self._over.is_set():
            await self._send_some(self._rng.choice(self._topics))

    async def _receiver(self, topic: str, group: str) -> None:
        while not self._over.is_set():
            handles = await self._take(topic, group)
            kept = {key: handle for key, handle in handles.items() if self._rng.random() > 0.2}
            if kept:
                await self._settle(topic, group, kept)
            for key in [key for key in handles if key not in kept and self._rng.random() > 0.5]:
                await self._give_back(topic, group, key, handles[key])

    async def _call(self, method: Unary, request: bytes) -> bytes | None:
        """None where the call was cut off."""
        try:
            return await method(request, timeout=CALL_TIMEOUT_S, metadata=wire.METADATA)
        except grpc.aio.AioRpcError as error:
            self._must_be_over(error)
            return None

    def _must_be_over(self, error: grpc.aio.AioRpcError) -> None:
        """Only the end of the server may cut a call off."""
        if not self._over.is_set():
            raise error

    async def _send_some(self, topic: str) -> None:
        batch = [self._message(topic) for _ in range(self._rng.randint(1, BATCH_MAX))]
        began_ms = now_ms()
        answer = await self._call(self._send, wire.send(*batch).SerializeToString())
        codes = [0] * len(batch)
        handles: dict[str, str] = {}
        if answer is not None:
            response = v2.SendMessageResponse.FromString(answer)
            codes = [entry.status.code for entry in response.entries] or [response.status.code] * len(batch)
            handles = {entry.message_id: entry.recall_handle for entry in response.entries if entry.recall_handle}
        for message, code in zip(batch, codes, strict=True):
            system, outcome = message.system_properties, outcome_of(code)
            due_ms = wire.get_ms(system.delivery_timestamp)
            sent = Send(system.message_id, topic, digest(message.body), began_ms, now_ms(), outcome, due_ms)
            self._history.sends.append(sent)
        for key in [key for key in handles if self._rng.random() < RECALLED]:
            await self._call_back(topic, key, handles[key])

    async def _call_back(self, topic: str, key: str, handle: str) -> None:
        request = v2.RecallMessageRequest(topic=v2.Resource(name=topic), recall_handle=handle)
        answer = await self._call(self._recall, request.SerializeToString()) if not self._over.is_set() else None
        code = v2.RecallMessageResponse.FromString(answer).status.code if answer is not None else 0
        self._history.recalls.append(Recall(key, outcome_of(code)))

    def _message(self, topic: str) -> v2.Message:
        self._sent += 1
        body = self._rng.randbytes(self._rng.randint(1, BODY_BYTES_MAX))
        message = wire.message(topic, body, f"{self._life}-{self._sent}")
        if self._rng.random() < DELAYED:
            wire.set_ms(message.system_properties.delivery_timestamp, now_ms() + self._rng.choice(DELAYS_MS))
        return message

    async def _take(self, topic: str, group: str) -> dict[str, str]:
        """Message id -> handle."""
        request = wire.receive(topic, group, invisible_ms=INVISIBLE_MS, poll_ms=200)
        began_ms, served_ms = now_ms(), 0
        messages: list[v2.Message] = []
        stream = self._receive(request.SerializeToString(), timeout=CALL_TIMEOUT_S, metadata=wire.METADATA)
        try:
            async for data in stream:
                response = v2.ReceiveMessageResponse.FromString(data)
                match response.WhichOneof("content"):
                    case "status":
                        assert response.status.code in (OK, NOTHING_NEW), response.status
                    case "message":
                        messages.append(v2.Message.FromString(response.message.SerializeToString()))
                    case "delivery_timestamp":
                        served_ms = wire.get_ms(response.delivery_timestamp)
        except grpc.aio.AioRpcError as error:
            self._must_be_over(error)
        self._note(group, messages, began_ms, served_ms or began_ms)
        return {m.system_properties.message_id: m.system_properties.receipt_handle for m in messages}

    def _note(self, group: str, messages: Sequence[v2.Message], began_ms: int, served_ms: int) -> None:
        ended_ms = now_ms()
        for message in messages:
            system = message.system_properties
            place = (message.topic.name, system.queue_id, system.queue_offset)
            self._history.deliveries.append(
                Delivery(
                    group,
                    system.message_id,
                    digest(message.body),
                    place,
                    began_ms,
                    served_ms,
                    ended_ms,
                    INVISIBLE_MS,
                )
            )

    async def _settle(self, topic: str, group: str, handles: dict[str, str]) -> None:
        began_ms = now_ms()
        answer = await self._call(self._ack, wire.ack(topic, group, handles.values()).SerializeToString())
        codes = [0] * len(handles)
        if answer is not None:
            codes = [entry.status.code for entry in v2.AckMessageResponse.FromString(answer).entries]
        for key, code in zip(handles, codes, strict=True):
            self._history.acks.append(Ack(group, key, began_ms, now_ms(), outcome_of(code)))

    async def _give_back(self, topic: str, group: str, key: str, handle: str) -> None:
        self._history.releases.append(Release(group, key, now_ms()))
        invisible_ms = self._rng.choice((0, 0, 300))
        await self._call(self._change, wire.change(topic, group, handle, invisible_ms).SerializeToString())


def outcome_of(code: int) -> Outcome:
    """0: no answer came."""
    return Outcome.UNKNOWN if code == 0 else Outcome.OK if code == OK else Outcome.FAILED
