"""Clients that send, recall, transact, receive, acknowledge, give back and bury, many at once, and write a History.

Owns the calls and what is made of their answers: OK, refused, or cut off. Promises: no call begins after `stop`, a call
that is cut off before it is an error unless the server may die by itself, and senders never run so far ahead that
retention could take what nobody has seen. Knows nothing of processes and judges nothing.
"""

import asyncio
import hashlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import grpc
import grpc.aio

from rmq_proto import v2
from tests.crash.plans import Plan
from tests.history.checker import is_lost
from tests.history.history import DLQ, Ack, Bury, Change, Delivery, End, History, Message, Outcome, Recall, Send
from tests.process import wire

OK, NOTHING_NEW = 20000, 40401
INVISIBLE_MS = 500
CALL_TIMEOUT_S = 20.0
POLL_MS = 100
DRAIN_S = 5.0
BATCH_MAX, BODY_BYTES_MAX = 4, 2048
DELAYS_MS, RECALLED = (1, 50, 800), 0.3  # of delayed messages: by how much, and how many are called back
LEFT, AGAIN = 0.2, 0.3  # transactions that are not ended at once, and calls that end an older one
OWED_MAX = 96  # with two groups and bodies of 1 KiB about: a small part of the smallest log
TAGS = ("", "a", "bb")
MESSAGE_GROUPS = tuple("abcdefgh")
AUDITOR = "auditor"

Unary = Callable[..., Awaitable[bytes]]
Listing = Callable[..., AsyncIterator[bytes]]
Handles = dict[str, str]  # message id -> receipt handle


def now_ms() -> int:
    """The wall clock, which the server shares."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Begun:
    """A transaction that has an id, and how it is to end, however often it is ended."""

    key: str
    topic: str
    transaction_id: str
    commit: bool


@dataclass
class Owed:
    """What is in the log and has not come yet: (group or dead letter topic, key). Over all lives of a store.

    `begun`: all transactions.
    """

    groups: Sequence[str]
    begun: list[Begun] = field(default_factory=list)
    left: set[tuple[str, str]] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)
    _came: set[tuple[str, str]] = field(default_factory=set)

    def sent(self, key: str) -> None:
        """It must come to every group."""
        self._seen.add(key)
        self.left.update({(group, key) for group in self.groups} - self._came)

    def buried(self, group: str, key: str) -> None:
        """Its dead letter must come."""
        self.left.update({(DLQ + group, key)} - self._came)

    def recalled(self, key: str) -> None:
        """It may be that it never comes."""
        self.left -= {(group, key) for group in self.groups}

    def came(self, to: str, key: str) -> None:
        """To a group, or from a dead letter topic; if its sender got no answer it is known only now."""
        self._came.add((to, key))
        if key not in self._seen:
            self.sent(key)
        self.left.discard((to, key))


class Clients:
    """The clients of one life of the server; `life` makes their message ids unlike those of any other."""

    def __init__(self, endpoint: str, history: History, owed: Owed, rng: random.Random, life: int) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint, [("grpc.use_local_subchannel_pool", 1)])
        self._send = cast(Unary, self._channel.unary_unary(wire.SERVICE + "SendMessage"))
        self._receive = cast(Listing, self._channel.unary_stream(wire.SERVICE + "ReceiveMessage"))
        self._recall = cast(Unary, self._channel.unary_unary(wire.SERVICE + "RecallMessage"))
        self._end = cast(Unary, self._channel.unary_unary(wire.SERVICE + "EndTransaction"))
        self._ack = cast(Unary, self._channel.unary_unary(wire.SERVICE + "AckMessage"))
        self._change = cast(Unary, self._channel.unary_unary(wire.SERVICE + "ChangeInvisibleDuration"))
        self._bury = cast(Unary, self._channel.unary_unary(wire.SERVICE + "ForwardMessageToDeadLetterQueue"))
        self._history, self._owed, self._rng, self._life = history, owed, rng, life
        self._ids, self._calls = itertools.count(), itertools.count(life << 32)
        self._over = False
        self._last_came_s = 0.0  # in a drain
        self.may_die = False

    async def run(self, plan: Plan, topics: Sequence[str]) -> None:
        """Until `stop`, and the end of the calls that are in flight then."""
        work = [self._sender(topics, plan) for _ in range(plan.senders)]
        work += [self._transactor(topics) for _ in range(plan.transactors)]
        pairs = [(topic, group) for topic in topics for group in self._history.groups]
        work += [self._receiver(*pair, plan) for pair in pairs for _ in range(plan.receivers)]
        if plan.bury or plan.retention:  # which may take a dead letter that nobody has seen
            work += [self._settle_all(DLQ + group, AUDITOR) for group in self._history.groups]
        await asyncio.gather(*work)
        await self._channel.close()

    def stop(self) -> None:
        """Begins no further call."""
        self._over = True

    async def drain(self, topics: Iterable[str], quiet_s: float) -> None:
        """Settles all that comes, for every topic and group, until nothing is lost and nothing came for `quiet_s`.

        What is lost after DRAIN_S stays so.
        """
        pairs = [(topic, group) for topic in topics for group in self._history.groups]
        pairs += [(DLQ + group, AUDITOR) for group in self._history.groups]
        settling = asyncio.gather(*(self._settle_all(*pair) for pair in pairs))
        began_s = time.monotonic()
        while not self._over:
            await asyncio.wait([settling], timeout=0.05)
            now_s = time.monotonic()
            quiet = now_s - max(began_s, self._last_came_s) >= quiet_s
            if settling.done() or (quiet and (now_s - began_s > DRAIN_S or not is_lost(self._history))):
                self.stop()
        await settling
        await self._channel.close()

    async def _settle_all(self, topic: str, group: str) -> None:
        while not self._over:
            if handles := await self._take(topic, group):
                self._last_came_s = time.monotonic()
                await self._settle(topic, group, handles)

    async def _sender(self, topics: Sequence[str], plan: Plan) -> None:
        while not self._over:
            if len(self._owed.left) < OWED_MAX:
                topic = self._rng.choice(topics)
                await self._recall_some(topic, await self._send_some(topic, plan))
            else:
                await asyncio.sleep(0.005)

    async def _transactor(self, topics: Sequence[str]) -> None:
        while not self._over:
            if len(self._owed.left) >= OWED_MAX:
                await asyncio.sleep(0.005)
            elif self._owed.begun and self._rng.random() < AGAIN:
                await self._end_one(self._rng.choice(self._owed.begun[-50:]))
            else:
                begun = await self._begin_one(self._rng.choice(topics))
                if begun is not None and self._rng.random() >= LEFT and not self._over:
                    await self._end_one(begun)

    async def _begin_one(self, topic: str) -> Begun | None:
        message, began_ms = self._plain(topic), now_ms()
        message.system_properties.message_type = v2.TRANSACTION
        answer = await self._call(self._send, wire.send(message).SerializeToString())
        response = v2.SendMessageResponse.FromString(answer or b"")
        key, outcome = message.system_properties.message_id, outcome_of(response.status.code)
        self._history.sends.append(Send(key, topic, seen(message), began_ms, now_ms(), outcome, half=True))
        if not response.entries:
            return None
        self._owed.begun.append(Begun(key, topic, response.entries[0].transaction_id, self._rng.random() < 0.5))
        return self._owed.begun[-1]

    async def _end_one(self, begun: Begun) -> None:
        """It may have been ended before, in this life or another one: that is OK."""
        began_ms = now_ms()
        answer = await self._call(self._end, wire.end(begun.topic, begun.transaction_id, commit=begun.commit))
        outcome = outcome_of(v2.EndTransactionResponse.FromString(answer or b"").status.code)
        assert outcome is not Outcome.FAILED, f"refused: {begun}"
        self._history.ends.append(End(begun.key, begun.commit, began_ms, now_ms(), outcome))
        if outcome is Outcome.OK and begun.commit:
            self._owed.sent(begun.key)

    async def _receiver(self, topic: str, group: str, plan: Plan) -> None:
        while not self._over:
            handles = await self._take(topic, group)
            fates = {key: self._rng.choices(plan.fates, plan.weights)[0] for key in handles}
            acked = {key: handle for key, handle in handles.items() if fates[key] == "ack"}
            if acked and not self._over:
                await self._settle(topic, group, acked)
            for key in (key for key, fate in fates.items() if fate in ("change", "bury")):
                if not self._over:
                    await (self._give_back if fates[key] == "change" else self._give_up)(
                        topic, group, key, handles[key]
                    )

    async def _call(self, method: Unary, request: bytes) -> bytes | None:
        """None where the call was cut off."""
        try:
            return await method(request, timeout=CALL_TIMEOUT_S, metadata=wire.METADATA)
        except grpc.aio.AioRpcError as error:
            self._cut_off(error)
            return None

    def _cut_off(self, error: grpc.aio.AioRpcError) -> None:
        """Only the end of the server may cut a call off, and no other begins."""
        if not self._over and not self.may_die:
            raise error
        self._over = True

    async def _send_some(self, topic: str, plan: Plan) -> Handles:
        """The recall handles of those that are delayed."""
        batch = [self._message(topic, plan) for _ in range(self._rng.randint(1, BATCH_MAX))]
        began_ms = now_ms()
        answer = await self._call(self._send, wire.send(*batch).SerializeToString())
        codes = [0] * len(batch)
        handles: Handles = {}
        if answer is not None:
            response = v2.SendMessageResponse.FromString(answer)
            codes = [entry.status.code for entry in response.entries] or [response.status.code] * len(batch)
            handles = {entry.message_id: entry.recall_handle for entry in response.entries if entry.recall_handle}
        for message, code in zip(batch, codes, strict=True):
            key, outcome = message.system_properties.message_id, outcome_of(code)
            deliver_ms = wire.get_ms(message.system_properties.delivery_timestamp)
            self._history.sends.append(Send(key, topic, seen(message), began_ms, now_ms(), outcome, deliver_ms))
            if outcome is Outcome.OK:
                self._owed.sent(key)
        return handles

    async def _recall_some(self, topic: str, handles: Handles) -> None:
        for key, handle in handles.items():
            if self._rng.random() < RECALLED and not self._over:
                await self._call_back(topic, key, handle)

    async def _call_back(self, topic: str, key: str, handle: str) -> None:
        request, began_ms = v2.RecallMessageRequest(topic=v2.Resource(name=topic), recall_handle=handle), now_ms()
        answer = await self._call(self._recall, request.SerializeToString())
        outcome = outcome_of(v2.RecallMessageResponse.FromString(answer).status.code if answer is not None else 0)
        self._history.recalls.append(Recall(key, began_ms, now_ms(), outcome))
        if outcome is not Outcome.FAILED:
            self._owed.recalled(key)

    def _message(self, topic: str, plan: Plan) -> v2.Message:
        made = self._plain(topic)
        if self._rng.random() < plan.delayed:
            wire.set_ms(made.system_properties.delivery_timestamp, now_ms() + self._rng.choice(DELAYS_MS))
        elif self._rng.random() < plan.grouped:
            # retention takes what waits for others of its group, as all that nobody received: there, each has its own
            group = made.system_properties.message_id if plan.retention else self._rng.choice(MESSAGE_GROUPS)
            made.system_properties.message_group = group
        return made

    def _plain(self, topic: str) -> v2.Message:
        key = f"{self._life}-{next(self._ids)}"
        made = wire.message(topic, self._rng.randbytes(self._rng.randint(1, BODY_BYTES_MAX)), key)
        if tag := self._rng.choice(TAGS):
            made.system_properties.tag = tag
        made.system_properties.keys.append(f"key-{key}")
        return made

    async def _take(self, topic: str, group: str) -> Handles:
        request = wire.receive(topic, group, invisible_ms=INVISIBLE_MS, poll_ms=POLL_MS)
        began_ms, served_ms, call = now_ms(), 0, next(self._calls)
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
            self._history.cut_off.append((group, topic))
            self._cut_off(error)
        self._note(topic, group, messages, call, (began_ms, served_ms, now_ms()))
        return {m.system_properties.message_id: m.system_properties.receipt_handle for m in messages}

    def _note(
        self, topic: str, group: str, messages: Sequence[v2.Message], call: int, times_ms: tuple[int, int, int]
    ) -> None:
        for message in messages:
            system = message.system_properties
            place = (message.topic.name, system.queue_id, system.queue_offset)
            key, attempt = system.message_id, system.delivery_attempt
            self._history.deliveries.append(
                Delivery(group, key, seen(message), place, call, attempt, *times_ms, INVISIBLE_MS)
            )
            self._owed.came(topic if topic.startswith(DLQ) else group, key)

    async def _settle(self, topic: str, group: str, handles: Handles) -> None:
        began_ms = now_ms()
        answer = await self._call(self._ack, wire.ack(topic, group, handles.values()).SerializeToString())
        codes = [0] * len(handles)
        if answer is not None:
            codes = [entry.status.code for entry in v2.AckMessageResponse.FromString(answer).entries]
        for key, code in zip(handles, codes, strict=True):
            if group != AUDITOR:
                self._history.acks.append(Ack(group, key, began_ms, now_ms(), outcome_of(code)))

    async def _give_back(self, topic: str, group: str, key: str, handle: str) -> None:
        invisible_ms, began_ms = self._rng.choice((0, 0, 200, 400)), now_ms()
        answer = await self._call(self._change, wire.change(topic, group, handle, invisible_ms).SerializeToString())
        code = v2.ChangeInvisibleDurationResponse.FromString(answer).status.code if answer is not None else 0
        self._history.changes.append(Change(group, key, invisible_ms, began_ms, now_ms(), outcome_of(code)))

    async def _give_up(self, topic: str, group: str, key: str, handle: str) -> None:
        request, began_ms = wire.dead_letter(topic, group, handle), now_ms()
        request.message_id = key
        answer = await self._call(self._bury, request.SerializeToString())
        kind = v2.ForwardMessageToDeadLetterQueueResponse
        outcome = outcome_of(kind.FromString(answer).status.code if answer is not None else 0)
        self._history.burials.append(Bury(group, key, began_ms, now_ms(), outcome))
        if outcome is Outcome.OK:
            self._owed.buried(group, key)


def seen(message: v2.Message) -> Message:
    """What the checker compares."""
    system = message.system_properties
    digest = hashlib.blake2b(message.body, digest_size=8).digest()
    return Message(digest, system.tag, " ".join(system.keys), system.message_group)


def outcome_of(code: int) -> Outcome:
    """0: no answer came."""
    return Outcome.UNKNOWN if code == 0 else Outcome.OK if code == OK else Outcome.FAILED
