"""What the admin tests share: the service over a fake broker with real queues, messages for it, and clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar, cast

import pytest
from google.protobuf.message import Message

from rmq.adminport import (
    GroupInfo,
    GroupTopicInfo,
    Holding,
    Kept,
    OpenInfo,
    Page,
    Place,
    QueueRange,
    Start,
    StoreInfo,
    Timer,
    TopicInfo,
    Transaction,
    TransactionState,
    Whereabouts,
)
from rmq.config import AS_IS, GroupFlags
from rmq.errors import ClientError, Code
from rmq.filter import ALL, Filter
from rmq.message import MessageType
from rmq.port import Answer
from rmq.retry import RetryPolicy
from rmq_proto import admin as pb
from rmq_proxy.admin import AdminService
from rmq_proxy.admin_client import AdminClient, AdminError
from rmq_proxy.adminconvert import Facts
from rmq_proxy.health import Health
from rmq_proxy.rpc import GrpcCode, Row
from tests.proxy.rig import CLIENT, GROUP, NOW_MS, TOPIC, Rig
from tests.proxy.transports import Maker, Server, serving, status_of

R = TypeVar("R")
Run: TypeAlias = Callable[[Awaitable[None]], None]
FACTS = Facts("9.9", 4321, "/data", "fast", "dev", NOW_MS - 60_000, True)
STORE = StoreInfo(100, 5000, 4900, 1 << 40, 2, 1, 7, 3, 5, 600)
PREFIX = "/rmq.admin.v1.Admin/"
NO_TOPIC = ClientError(Code.TOPIC_NOT_FOUND, "there is no topic nowhere")
NO_TIMER = ClientError(Code.NOT_FOUND, "there is no delayed message 9 that waits")
NO_TRANSACTION = ClientError(Code.NOT_FOUND, "there is no transaction 9 that has not ended")
NO_GROUP = ClientError(Code.CONSUMER_GROUP_NOT_FOUND, "there is no group nobody")


def kept(offset: int, queue_id: int = 0, body: bytes = b"hello", topic: str = TOPIC, **properties: str) -> Kept:
    """A stored message; positions follow offsets."""
    stored = {"UNIQ_KEY": f"id-{queue_id}-{offset}", **properties}
    position = 1000 * offset + queue_id
    return Kept(topic, queue_id, offset, position, body, stored, 0, NOW_MS - 20, "10.0.0.9", NOW_MS - 10, 0)


def a_group(name: str = GROUP, opens: int = 0) -> GroupInfo:
    """A group on one topic, with so many open messages."""
    leases = [OpenInfo(0, at, 1, NOW_MS + 5000, CLIENT, f"id-0-{at}") for at in range(opens)]
    topic = GroupTopicInfo(TOPIC, 12, 3400, opens, 1, 2, [Place(0, 5, 3, 17, opens)], leases)
    return GroupInfo(name, 17, RetryPolicy((1000, 5000)), [topic], [CLIENT])


def a_transaction(number: int) -> Transaction:
    """One that has been checked once."""
    return Transaction(number, TOPIC, TransactionState.CHECKED, 1, NOW_MS + number, kept(number))


class FakeAdmin:
    """An AdminPort that remembers what it was asked. `answers`: verb -> value, Future or error instead of its own.

    `queues` are those of the one topic; a peek looks at `scan_max` entries of each queue.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.answers: dict[str, object] = {}
        self.queues: list[list[Kept]] = [[], []]
        self.watchers: set[asyncio.Future[None]] = set()
        self.changed = asyncio.Event()
        self.scan_max = 100
        self.open_count = 3

    def of(self, verb: str) -> list[tuple[object, ...]]:
        """What that verb was called with."""
        return [call[1:] for call in self.calls if call[0] == verb]

    async def until(self, true: Callable[[], object]) -> None:
        """Waits for what begins or ends with a watcher; the test's own limit bounds it."""
        while not true():
            await self.changed.wait()
            self.changed.clear()

    def arrive(self, *messages: Kept) -> None:
        """They can be read from now on."""
        for message in messages:
            self.queues[message.queue_id].append(message)
        for watcher in tuple(self.watchers):
            watcher.set_result(None)

    def _answer(self, default: Answer[R], verb: str, *arguments: object) -> Answer[R]:
        self.calls.append((verb, *arguments))
        answer = self.answers.get(verb, default)
        if isinstance(answer, Exception):
            raise answer
        return cast("Answer[R]", answer)

    def _now(self, default: R, verb: str, *arguments: object) -> R:
        return cast("R", self._answer(default, verb, *arguments))

    def describe(self) -> StoreInfo:
        return self._now(STORE, "describe")

    def topics(self) -> Sequence[TopicInfo]:
        return self._now([self._info()], "topics")

    def topic(self, name: str) -> TopicInfo:
        return self._now(self._info(), "topic", name)

    def _info(self) -> TopicInfo:
        ranges = [QueueRange(number, 0, len(queue)) for number, queue in enumerate(self.queues)]
        return TopicInfo(TOPIC, MessageType.FIFO, ranges, [GROUP])

    def put_topic(self, name: str, kind: MessageType | None, queues: int) -> Answer[TopicInfo]:
        return self._answer(self._info(), "put_topic", name, kind, queues)

    def delete_topic(self, name: str) -> Answer[None]:
        return self._answer(None, "delete_topic", name)

    def groups(self) -> Sequence[GroupInfo]:
        return self._now([a_group()], "groups")

    def group_info(self, name: str, *, open_max: int = 0) -> GroupInfo:
        return self._now(a_group(name, min(open_max, self.open_count)), "group_info", name, open_max)

    def renewed(self, group: str, client_id: str) -> int:
        return self._now(2, "renewed", group, client_id)

    def put_group(
        self, name: str, attempts_max: int, retry: RetryPolicy | None, flags: GroupFlags = AS_IS
    ) -> Answer[GroupInfo]:
        return self._answer(a_group(name), "put_group", name, attempts_max, retry, flags)

    def delete_group(self, name: str) -> Answer[None]:
        return self._answer(None, "delete_group", name)

    def reset_offset(self, group: str, topic: str, start: Start) -> Answer[GroupInfo]:
        return self._answer(a_group(group), "reset_offset", group, topic, start)

    def peek(self, topic: str, start: Start, limit: int, wanted: Filter = ALL) -> Page:
        return self._now(self._read(start, limit, wanted), "peek", topic, start, limit, wanted)

    def _read(self, start: Start, limit: int, wanted: Filter) -> Page:
        found, following = list[Kept](), dict[int, int]()
        for number, queue in enumerate(self.queues):
            if start.offsets is None:
                begin = len(queue) if start.end else 0
            elif number in start.offsets:
                begin = start.offsets[number]
            else:
                continue
            seen = queue[begin : begin + self.scan_max]
            matching = [message for message in seen if wanted.matches(message.properties)]
            following[number] = begin + len(seen)
            found += matching
        found.sort(key=lambda message: message.position)
        for message in found[limit:]:
            following[message.queue_id] = min(following[message.queue_id], message.offset)
        return Page(found[:limit], following)

    def watch(self, topic: str) -> "asyncio.Future[None]":
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.watchers.add(watcher)
        self.changed.set()
        watcher.add_done_callback(self._unwatch)
        return self._now(watcher, "watch", topic)

    def _unwatch(self, watcher: "asyncio.Future[None]") -> None:
        self.watchers.discard(watcher)
        self.changed.set()

    def find(self, topic: str, *, message_id: str = "", key: str = "", limit: int = 32) -> Answer[Sequence[Kept]]:
        return self._answer([kept(3, KEYS="k")], "find", topic, message_id, key, limit)

    def copies(self, message_id: str, topic: str) -> Answer[Sequence[Kept]]:
        return self._answer([kept(3)], "copies", message_id, topic)

    def whereabouts(self, copy: Kept) -> Whereabouts:
        return self._now(Whereabouts(TOPIC, 0, [Holding(GROUP, "WAITING")]), "whereabouts", copy)

    def dead_letters(self, group: str, limit: int) -> Page:
        return self._now(Page([kept(1, topic=f"%DLQ%{group}")], {0: 2}), "dead_letters", group, limit)

    def replay(self, group: str, message_ids: Sequence[str]) -> Answer[int]:
        return self._answer(4, "replay", group, tuple(message_ids))

    def timers(self, topic: str, limit: int) -> Sequence[Timer]:
        return self._now([Timer(n, NOW_MS + n, kept(n)) for n in (5, 7)], "timers", topic, limit)

    def timer(self, number: int) -> Timer:
        return self._now(Timer(number, NOW_MS + 9, kept(number)), "timer", number)

    def cancel_timer(self, number: int) -> Answer[None]:
        return self._answer(None, "cancel_timer", number)

    def transactions(self, topic: str, limit: int, *, parked: bool) -> Sequence[Transaction]:
        return self._now([a_transaction(n) for n in (5, 7)], "transactions", topic, limit, parked)

    def transaction(self, number: int) -> Transaction:
        return self._now(a_transaction(number), "transaction", number)

    def end_transaction(self, number: int, *, commit: bool) -> Answer[None]:
        return self._answer(None, "end_transaction", number, commit)

    def advance(self, ms: int) -> Answer[int]:
        return self._answer(NOW_MS + ms, "advance", ms)

    def reset(self) -> Answer[None]:
        return self._answer(None, "reset")


class AdminRig(Rig):
    """The service beside the messaging service, with its clients."""

    def __init__(self, *, remote: bool = False) -> None:
        super().__init__()
        self.admin = FakeAdmin()
        self.service = AdminService(
            self.admin, self.sessions, self.telemetry, FACTS, self.clock, self.filters, remote=remote
        )
        self.admin_rows: dict[str, Row] = {row.path: row for row in self.service.rows()}


class Admin:
    """A client of the service over a real connection."""

    def __init__(self, rig: AdminRig, server: Server) -> None:
        self.rig = rig
        self.port = rig.admin
        self.server = server

    async def ask(
        self, method: str, request: Message, decode: Callable[[bytes], R], timeout_s: float | None = None
    ) -> R:
        return decode(await self.server.unary(PREFIX + method, request.SerializeToString(), timeout_s=timeout_s))

    async def refused(self, method: str, request: Message) -> tuple[str, str]:
        code, text = await status_of(self.server.unary(PREFIX + method, request.SerializeToString()))
        return GrpcCode(code).name, text

    async def peek(self, **fields: object) -> pb.PeekResponse:
        return await self.ask("Peek", a_peek(fields), pb.PeekResponse.FromString)

    def waiting(self, **fields: object) -> "asyncio.Task[pb.PeekResponse]":
        return asyncio.ensure_future(self.peek(**{"wait_ms": 20_000, **fields}))

    async def watching(self) -> None:
        """Returns once a Peek waits for news."""
        await self.port.until(lambda: self.port.watchers)


@asynccontextmanager
async def an_admin(make: Maker) -> AsyncIterator[Admin]:
    """The service on a transport, and a client of it."""
    rig = AdminRig()
    async with serving(make, *rig.admin_rows.values()) as server:
        yield Admin(rig, server)


def a_peek(fields: Mapping[str, object]) -> pb.PeekRequest:
    """Of the one topic, where `fields` name no other."""
    request = pb.PeekRequest(topic=TOPIC)
    for name, value in fields.items():
        if name == "offsets":
            request.offsets.update(cast("Mapping[int, int]", value))
        else:
            setattr(request, name, value)
    return request


def ids(page: pb.PeekResponse) -> list[str]:
    """Of the messages, in their order."""
    return [message.message_id for message in page.messages]


class Asked:
    """A server, and a client of it that is called in a thread."""

    def __init__(self, rig: AdminRig, health: Health, server: Server) -> None:
        self.rig = rig
        self.health = health
        self.server = server
        self.endpoint = f"127.0.0.1:{server.port}"

    async def __call__(self, use: Callable[[AdminClient], R]) -> R:
        return await ask(self.endpoint, use)


@asynccontextmanager
async def a_server(make: Maker) -> AsyncIterator[Asked]:
    """With the admin service, the messaging service and health."""
    rig, health = AdminRig(), Health(["a.Service"])
    async with serving(make, *rig.admin_rows.values(), *rig.rows.values(), *health.rows()) as server:
        yield Asked(rig, health, server)


async def ask(endpoint: str, use: Callable[[AdminClient], R], timeout_s: float = 5.0) -> R:
    """In a thread: the client blocks, and the loop has to serve it."""

    def call() -> R:
        with AdminClient(endpoint, timeout_s=timeout_s) as admin:
            return use(admin)

    return await asyncio.to_thread(call)


async def failure(endpoint: str, use: Callable[[AdminClient], object], timeout_s: float = 5.0) -> AdminError:
    """How a call fails; its text is one line."""
    with pytest.raises(AdminError) as caught:
        await ask(endpoint, use, timeout_s)
    assert caught.value.text == str(caught.value)
    assert caught.value.text.isprintable()
    return caught.value
