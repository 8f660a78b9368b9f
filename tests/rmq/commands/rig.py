"""What the tests of commands share: a command run in this process, and an imagined server behind the real client."""

import io
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import pytest
from google.protobuf.message import Message

from rmq.cli import run
from rmq.config import GROUP_FLAGS
from rmq_proto import admin as pb
from rmq_proto import health as health_pb
from rmq_proto import v2
from rmq_proxy.admin_client import AdminError, ErrorKind, Sent

NOW_MS = 1_790_000_000_000  # 2026-09-21


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """Standard input that a person types on."""

    def isatty(self) -> bool:
        return True


class Pipe:
    """Standard input with bytes in it."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False


class Commands:
    """Runs commands as a shell would, with pipes for standard streams unless a terminal is asked for."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *args: str, stdin: bytes = b"", typed: str | None = None) -> Result:
        self._monkeypatch.setattr(sys, "stdin", Pipe(stdin) if typed is None else Terminal(typed))
        code = run(args)
        return Result(code, *self._capsys.readouterr())

    def fails(self, *args: str, code: int) -> str:
        """The one line that a failure is, without its beginning."""
        result = self(*args)
        assert (result.code, result.out) == (code, "")
        assert result.err.startswith("rmq: ")
        assert result.err.count("\n") == 1
        return result.err.removeprefix("rmq: ").strip()


def message(offset: int, body: bytes = b"hello", queue_id: int = 0, **fields: Any) -> pb.Message:
    """A stored message; both queues' messages were stored in the order of their offsets."""
    given: dict[str, Any] = {
        "topic": "orders",
        "message_id": f"ID{queue_id}-{offset}",
        "stored_ms": NOW_MS + 10 * offset + queue_id,
    }
    return pb.Message(offset=offset, queue_id=queue_id, body=body, **(given | fields))


class FakeServer:
    """The topic `orders` with its messages, and what the other verbs answer: `answers` by verb, a value or an error.

    `calls` is what was asked. A page looks at `scan_max` entries of each queue.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.answers: dict[str, Any] = {}
        self.queues: list[list[pb.Message]] = [[], []]
        self.comes: list[pb.Message] = []  # one of these arrives whenever a peek waits
        self.scan_max = 100
        self.endpoints: list[str] = []

    def fail(self, verb: str, kind: ErrorKind, text: str = "it does not go; try something else") -> None:
        """The verb raises AdminError."""
        self.answers[verb] = AdminError(kind, text)

    def asked(self, verb: str) -> list[tuple[object, ...]]:
        """The arguments of each call of a verb."""
        return [call[1:] for call in self.calls if call[0] == verb]

    def topic(self) -> pb.Topic:
        """`orders` as it is now."""
        queues = [pb.Queue(id=i, max_offset=len(queue)) for i, queue in enumerate(self.queues)]
        return pb.Topic(name="orders", type="NORMAL", queues=queues, groups=["billing"])

    def answer(self, verb: str, default: Callable[[], object], *args: object) -> object:
        """What a verb answers: its own, unless the test says otherwise."""
        self.calls.append((verb, *args))
        found = self.answers.get(verb, default)
        if isinstance(found, BaseException):
            raise found
        return default() if found is default else found

    def own(self, verb: str, request: Any) -> object:
        """What a verb answers of itself."""
        match verb:
            case "describe":
                return pb.Server(version="9.9", pid=7, now_ms=NOW_MS)
            case "put_topic":
                queues = [pb.Queue(id=i) for i in range(request.queues or 8)]
                return pb.Topic(name=request.name, type=request.type or "NORMAL", queues=queues)
            case "topics":
                return [self.topic()]
            case "put_group":
                attempts = request.attempts_max or 17
                return _with_flags(
                    pb.Group(name=request.name, attempts_max=attempts, retry_ms=request.retry_ms), request
                )
            case "reset_offset":
                return pb.Group(name=request.group)
            case "peek":
                return self._peek(request)
            case "send":
                return Sent("01AB", 12)
            case "health":
                return True
            case "replay":
                return 0
            case "stack":
                return ""
            case "verify":
                return pb.VerifyMessageResponse(client_id="c1", topic="orders", status="OK")
            case _:
                return []

    def _peek(self, request: pb.PeekRequest) -> pb.PeekResponse:
        if request.wait_ms and self.comes:
            came = self.comes.pop(0)
            self.queues[came.queue_id].append(came)
        found, next_ = self._scan(request)
        for left in found[request.limit :]:
            next_[left.queue_id] = min(next_[left.queue_id], left.offset)
        return pb.PeekResponse(messages=found[: request.limit], next=next_)

    def _scan(self, request: pb.PeekRequest) -> tuple[list[pb.Message], dict[int, int]]:
        found: list[pb.Message] = []
        next_ = {}
        for queue_id, queue in enumerate(self.queues):
            start = len(queue) if request.from_end else sum(one.stored_ms < request.from_ms for one in queue)
            if request.offsets and queue_id not in request.offsets and not request.from_begin:
                continue
            start = request.offsets.get(queue_id, 0) if request.offsets else start
            page = queue[start : start + self.scan_max]
            wanted = request.sql or request.filter
            found += [one for one in page if wanted in ("", "*", one.tag, f"TAGS = '{one.tag}'")]
            next_[queue_id] = start + len(page)
        return sorted(found, key=lambda one: one.stored_ms), next_


def _peeked(request: pb.PeekRequest) -> tuple[object, ...]:
    offsets = dict(request.offsets) or None
    wanted = request.sql or request.filter
    where = request.from_begin, request.from_end, request.from_ms
    return request.topic, offsets, *where, request.limit, wanted, request.wait_ms


def _reset(request: pb.ResetOffsetRequest) -> tuple[object, ...]:
    time_ms = request.time_ms if request.WhichOneof("to") == "time_ms" else None
    return request.group, request.topic, request.begin, request.end, time_ms


def _sent(request: v2.SendMessageRequest) -> tuple[object, ...]:
    (one,) = request.messages
    system = one.system_properties
    due = system.delivery_timestamp
    due_ms = due.seconds * 1000 + due.nanos // 1_000_000 if system.HasField("delivery_timestamp") else None
    properties = dict(one.user_properties)
    priority = system.priority if system.HasField("priority") else None
    named = system.tag, tuple(system.keys), properties, system.message_group
    return one.topic.name, one.body, *named, due_ms, priority, *filter(None, [system.lite_topic])


def _send_result(sent: Sent) -> v2.SendMessageResponse:
    entry = v2.SendResultEntry(message_id=sent.message_id, offset=sent.offset)
    return v2.SendMessageResponse(status=v2.Status(code=v2.OK), entries=[entry])


def _pauses(request: pb.PutGroupRequest) -> tuple[float, ...] | str:
    if request.HasField("backoff"):
        return f"{request.backoff.initial_ms},{request.backoff.max_ms},{request.backoff.multiplier:g}"
    return tuple(request.retry_ms)


def _with_flags(group: pb.Group, request: pb.PutGroupRequest) -> pb.Group:
    for name, value in _flags(request).items():
        setattr(group, name, value)
    return group


def _flags(request: pb.PutGroupRequest) -> dict[str, bool]:
    return {name: getattr(request, name) for name in GROUP_FLAGS if request.HasField(name)}


def _health(serves: bool) -> health_pb.HealthCheckResponse:
    status = health_pb.HealthCheckResponse
    return status(status=status.SERVING if serves else status.NOT_SERVING)


class Verb(NamedTuple):
    """A method: its request, what a test reads of it, and the answer that a value stands for."""

    name: str
    request: Callable[[bytes], Any]
    asked: Callable[[Any], tuple[object, ...]]
    response: Callable[[Any], Message] = lambda value: cast("Message", value)


VERBS: Mapping[str, Verb] = {
    "Describe": Verb("describe", pb.DescribeRequest.FromString, lambda r: ()),
    "PutTopic": Verb(
        "put_topic", pb.PutTopicRequest.FromString,
        lambda r: (r.name, r.type, r.queues, r.must_be_new, r.must_exist),
    ),
    "ListTopics": Verb(
        "topics", pb.ListTopicsRequest.FromString, lambda r: (r.name,), lambda v: pb.ListTopicsResponse(topics=v)
    ),
    "DeleteTopic": Verb(
        "delete_topic", pb.DeleteTopicRequest.FromString, lambda r: (r.name,), lambda v: pb.DeleteTopicResponse()
    ),
    "PutGroup": Verb(
        "put_group", pb.PutGroupRequest.FromString,
        lambda r: (r.name, r.attempts_max, _pauses(r), r.must_be_new, r.must_exist, *_flags(r).items()),
    ),
    "ListGroups": Verb(
        "groups", pb.ListGroupsRequest.FromString, lambda r: (r.name, r.leases),
        lambda v: pb.ListGroupsResponse(groups=v),
    ),
    "ResetOffset": Verb("reset_offset", pb.ResetOffsetRequest.FromString, _reset),
    "DeleteGroup": Verb(
        "delete_group", pb.DeleteGroupRequest.FromString, lambda r: (r.name,), lambda v: pb.DeleteGroupResponse()
    ),
    "Peek": Verb("peek", pb.PeekRequest.FromString, _peeked),
    "FindMessages": Verb(
        "find", pb.FindMessagesRequest.FromString, lambda r: (r.topic, r.message_id, r.key, r.limit),
        lambda v: pb.PeekResponse(messages=v),
    ),
    "LocateMessage": Verb(
        "locate", pb.LocateMessageRequest.FromString, lambda r: (r.message_id, r.topic),
        lambda v: pb.LocateMessageResponse(copies=v),
    ),
    "PrintThreadStackTrace": Verb(
        "stack", pb.PrintThreadStackTraceRequest.FromString, lambda r: (r.client_id,),
        lambda v: pb.PrintThreadStackTraceResponse(thread_stack_trace=v),
    ),
    "VerifyMessage": Verb(
        "verify", pb.VerifyMessageRequest.FromString, lambda r: (r.group, r.message_id, r.client_id, r.topic)
    ),
    "ListDeadLetters": Verb(
        "dead_letters", pb.ListDeadLettersRequest.FromString, lambda r: (r.group, r.limit),
        lambda v: pb.PeekResponse(messages=v),
    ),
    "ReplayDeadLetters": Verb(
        "replay", pb.ReplayDeadLettersRequest.FromString, lambda r: (r.group, tuple(r.message_ids)),
        lambda v: pb.ReplayDeadLettersResponse(replayed=v),
    ),
    "ListTimers": Verb(
        "timers", pb.ListTimersRequest.FromString,
        lambda r: (r.topic, r.limit, r.number if r.HasField("number") else None),
        lambda v: pb.ListTimersResponse(timers=v),
    ),
    "CancelTimer": Verb(
        "cancel_timer", pb.CancelTimerRequest.FromString, lambda r: (r.number,), lambda v: pb.CancelTimerResponse()
    ),
    "ListTransactions": Verb(
        "transactions", pb.ListTransactionsRequest.FromString,
        lambda r: (r.topic, r.limit, r.number if r.HasField("number") else None, r.parked),
        lambda v: pb.ListTransactionsResponse(transactions=v),
    ),
    "ResolveTransaction": Verb(
        "resolve_transaction", pb.ResolveTransactionRequest.FromString, lambda r: (r.number, r.commit),
        lambda v: pb.ResolveTransactionResponse(),
    ),
    "ListClients": Verb(
        "clients", pb.ListClientsRequest.FromString, lambda r: (r.group,), lambda v: pb.ListClientsResponse(clients=v)
    ),
    "SendMessage": Verb("send", v2.SendMessageRequest.FromString, _sent, _send_result),
    "Check": Verb("health", health_pb.HealthCheckRequest.FromString, lambda r: (), _health),
}  # fmt: skip
"""By the last word of the path. A value of a list, a number or None is wrapped in its response."""


class FakeChannel:
    """gRPC's channel, as far as AdminClient uses it: a call goes to the FakeServer, as bytes and back."""

    def __init__(self, server: FakeServer, target: str) -> None:
        self._server = server
        server.endpoints.append(target.removeprefix("dns:///"))

    def unary_unary(self, path: str) -> Callable[..., bytes]:
        verb = VERBS[path.rpartition("/")[2]]

        def call(data: bytes, *, timeout: float, metadata: object) -> bytes:
            del metadata
            assert timeout > 0
            request = verb.request(data)
            value = self._server.answer(verb.name, lambda: self._server.own(verb.name, request), *verb.asked(request))
            return verb.response(value).SerializeToString()

        return call

    def close(self) -> None:
        pass
