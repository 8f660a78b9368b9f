"""What the tests of commands share: a command run in this process, and an admin client over an imagined server."""

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar, cast

import pytest

from rmq.cli import run
from rmq_proto import admin as pb
from rmq_proxy.admin_client import AdminError, ErrorKind, Sent

T = TypeVar("T")
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

    def answer(self, verb: str, default: T, *args: object) -> T:
        """What a verb answers: its own, unless the test says otherwise."""
        self.calls.append((verb, *args))
        found = self.answers.get(verb, default)
        if isinstance(found, BaseException):
            raise found
        return cast("T", found)


class FakeClient:
    """AdminClient's shape; talks to the FakeServer that the fixture put in the class."""

    server: FakeServer

    def __init__(self, endpoint: str, *, timeout_s: float = 5.0) -> None:
        self.timeout_s = timeout_s
        self.server.endpoints.append(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def describe(self) -> pb.Server:
        return self.server.answer("describe", pb.Server(version="9.9", pid=7, now_ms=NOW_MS))

    def put_topic(
        self,
        name: str,
        type: str = "",  # noqa: A002  # the client's word
        queues: int = 0,
        *,
        must_be_new: bool = False,
        must_exist: bool = False,
    ) -> pb.Topic:
        made = pb.Topic(name=name, type=type or "NORMAL", queues=[pb.Queue(id=i) for i in range(queues or 8)])
        return self.server.answer("put_topic", made, name, type, queues, must_be_new, must_exist)

    def topics(self, name: str = "") -> Sequence[pb.Topic]:
        return self.server.answer("topics", [self.server.topic()], name)

    def delete_topic(self, name: str) -> None:
        self.server.answer("delete_topic", None, name)

    def put_group(
        self,
        name: str,
        attempts_max: int = 0,
        retry_ms: Sequence[int] = (),
        *,
        must_be_new: bool = False,
        must_exist: bool = False,
    ) -> pb.Group:
        made = pb.Group(name=name, attempts_max=attempts_max or 17, retry_ms=retry_ms)
        return self.server.answer("put_group", made, name, attempts_max, tuple(retry_ms), must_be_new, must_exist)

    def groups(self, name: str = "", leases: bool = False) -> Sequence[pb.Group]:
        return self.server.answer("groups", [], name, leases)

    def reset_offset(
        self, group: str, topic: str, *, begin: bool = False, end: bool = False, time_ms: int | None = None
    ) -> pb.Group:
        return self.server.answer("reset_offset", pb.Group(name=group), group, topic, begin, end, time_ms)

    def delete_group(self, name: str) -> None:
        self.server.answer("delete_group", None, name)

    def peek(
        self,
        topic: str,
        from_: Mapping[int, int] | None = None,
        *,
        from_begin: bool = False,
        from_end: bool = False,
        from_ms: int = 0,
        limit: int = 32,
        filter: str = "",  # noqa: A002  # the client's word
        sql: str = "",
        wait_ms: int = 0,
    ) -> pb.PeekResponse:
        self.server.answer("peek", None, topic, from_, from_begin, from_end, from_ms, limit, sql or filter, wait_ms)
        if wait_ms and self.server.comes:
            came = self.server.comes.pop(0)
            self.server.queues[came.queue_id].append(came)
        found, next_ = self._scan(from_, from_begin, from_end, from_ms, sql or filter)
        for left in found[limit:]:
            next_[left.queue_id] = min(next_[left.queue_id], left.offset)
        return pb.PeekResponse(messages=found[:limit], next=next_)

    def _scan(
        self, from_: Mapping[int, int] | None, from_begin: bool, from_end: bool, from_ms: int, wanted: str
    ) -> tuple[list[pb.Message], dict[int, int]]:
        found: list[pb.Message] = []
        next_ = {}
        for queue_id, queue in enumerate(self.server.queues):
            start = len(queue) if from_end else sum(one.stored_ms < from_ms for one in queue)
            if from_ is not None and queue_id not in from_ and not from_begin:
                continue
            start = from_.get(queue_id, 0) if from_ is not None else start
            page = queue[start : start + self.server.scan_max]
            found += [one for one in page if wanted in ("", "*", one.tag, f"TAGS = '{one.tag}'")]
            next_[queue_id] = start + len(page)
        return sorted(found, key=lambda one: one.stored_ms), next_

    def find(self, topic: str, message_id: str = "", key: str = "", limit: int = 32) -> Sequence[pb.Message]:
        return self.server.answer("find", [], topic, message_id, key, limit)

    def dead_letters(self, group: str, limit: int = 32) -> Sequence[pb.Message]:
        return self.server.answer("dead_letters", [], group, limit)

    def replay(self, group: str, message_ids: Sequence[str] = ()) -> int:
        return self.server.answer("replay", 0, group, tuple(message_ids))

    def timers(self, topic: str = "", limit: int = 32, number: int | None = None) -> Sequence[pb.Timer]:
        return self.server.answer("timers", [], topic, limit, number)

    def cancel_timer(self, number: int) -> None:
        self.server.answer("cancel_timer", None, number)

    def transactions(
        self, topic: str = "", limit: int = 32, number: int | None = None, *, parked: bool = False
    ) -> Sequence[pb.Transaction]:
        return self.server.answer("transactions", [], topic, limit, number, parked)

    def resolve_transaction(self, number: int, *, commit: bool) -> None:
        self.server.answer("resolve_transaction", None, number, commit)

    def send(
        self,
        topic: str,
        body: bytes,
        tag: str = "",
        keys: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        message_group: str = "",
        delivery_ms: int | None = None,
    ) -> Sent:
        args = (topic, body, tag, tuple(keys), dict(properties or {}), message_group, delivery_ms)
        return self.server.answer("send", Sent("01AB", 12), *args)

    def clients(self, group: str = "") -> Sequence[pb.Client]:
        return self.server.answer("clients", [], group)

    def health(self) -> bool:
        return self.server.answer("health", True)
