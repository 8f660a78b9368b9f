"""The admin service's client for plain synchronous code: the command line, rmq.testing.

    with AdminClient("localhost:8081") as admin:
        for topic in admin.topics():
            print(topic.name, topic.type)

Owns one connection, made at the first call. Promises that each call ends within its time and that whatever goes wrong
is an AdminError, one line that says what to do. It blocks: not for the event loop of the server that it asks. Names are
stored names (`ns%name`), times are milliseconds since 1970. grpcio is imported with the first client.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, NoReturn, Self, TypeAlias, TypeVar, cast
from uuid import uuid4

import msgspec
from google.protobuf.message import DecodeError, Message

from rmq.config import parse_endpoint
from rmq_proto import admin as pb
from rmq_proto import health as health_pb
from rmq_proto import v2
from rmq_proxy.adminprobe import Found, probe

R = TypeVar("R")
ErrorKind: TypeAlias = Literal["down", "not_ours", "busy", "refused", "not_found", "exists", "invalid", "failed"]

PORT = 8081
SERVICE = "rmq.admin.v1.Admin"
CLIENT_ID = "x-mq-client-id"
COMMAND_S = 5.0  # how long the server waits for what it asks of a client
OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # an http_proxy of the environment is not meant for a broker
    ("grpc.use_local_subchannel_pool", 1),  # a new client tries at once, whatever an earlier one met
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)

_HOST = re.compile(r"[\w.-]+")
_KINDS: Mapping[str, ErrorKind] = {
    "PERMISSION_DENIED": "refused",
    "UNAUTHENTICATED": "refused",
    "NOT_FOUND": "not_found",
    "ALREADY_EXISTS": "exists",
    "INVALID_ARGUMENT": "invalid",
    "RESOURCE_EXHAUSTED": "busy",
}
_SEND_KINDS: Mapping[int, ErrorKind] = {401: "refused", 403: "failed", 404: "not_found", 429: "busy"}


class AdminError(Exception):
    """What went wrong. `text` is one line that says what to do; `kind` is for code:

    down       nothing listens there, or the name has no address
    not_ours   something else listens there, or a server without what was asked: an Apache, an older rmq
    busy       there was no answer in time; try again
    refused    the server does not serve such callers
    not_found, exists, invalid     the topic, group or message; the arguments
    failed     all else
    """

    def __init__(self, kind: ErrorKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class Sent(msgspec.Struct, frozen=True):
    """Where a message went: its id, and its offset in one of the topic's queues."""

    message_id: str
    offset: int


class AdminClient:
    """A client of one server. `endpoint` is HOST[:PORT], an IPv6 host in brackets where a port follows.

    `timeout_s` is how long a call may take, beside the time that a peek is told to wait. Raises AdminError `invalid`.
    """

    def __init__(self, endpoint: str, *, timeout_s: float = 5.0) -> None:
        self._host, self._port = split_endpoint(endpoint)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.endpoint = f"{host}:{self._port}"
        self._timeout_s = timeout_s
        import grpc

        self._channel = grpc.insecure_channel(f"dns:///{self.endpoint}", OPTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; the client cannot be used any more."""
        self._channel.close()

    def describe(self) -> pb.Server:
        """The server in numbers."""
        return self._ask("Describe", pb.DescribeRequest(), pb.Server.FromString)

    # -- topics ------------------------------------------------------------------------------------------------------

    def put_topic(
        self,
        name: str,
        type: str = "",  # noqa: A002  # the wire's word
        queues: int = 0,
        *,
        must_be_new: bool = False,
        must_exist: bool = False,
    ) -> pb.Topic:
        """Makes or changes one; empty and 0 leave what is there, or take the server's default. Queues only grow."""
        request = pb.PutTopicRequest(
            name=name, type=type, queues=queues, must_be_new=must_be_new, must_exist=must_exist
        )
        return self._ask("PutTopic", request, pb.Topic.FromString)

    def topics(self, name: str = "") -> Sequence[pb.Topic]:
        """All, by name, or just one. Raises `not_found`."""
        return self._ask("ListTopics", pb.ListTopicsRequest(name=name), pb.ListTopicsResponse.FromString).topics

    def delete_topic(self, name: str) -> None:
        """With its messages and every group's place in it. Raises `not_found`."""
        self._ask("DeleteTopic", pb.DeleteTopicRequest(name=name), pb.DeleteTopicResponse.FromString)

    # -- groups ------------------------------------------------------------------------------------------------------

    def put_group(
        self,
        name: str,
        attempts_max: int = 0,
        retry_ms: Sequence[int] = (),
        *,
        backoff: pb.Backoff | None = None,
        must_be_new: bool = False,
        must_exist: bool = False,
        **flags: bool | None,
    ) -> pb.Group:
        """Makes or changes one; 0, None and empty leave what is there, or take the server's default. `flags`: those of
        rmq.config.GroupFlags.
        """
        request = pb.PutGroupRequest(
            name=name,
            attempts_max=attempts_max,
            retry_ms=retry_ms,
            backoff=backoff,
            must_be_new=must_be_new,
            must_exist=must_exist,
            **flags,
        )
        return self._ask("PutGroup", request, pb.Group.FromString)

    def groups(self, name: str = "", leases: bool = False) -> Sequence[pb.Group]:
        """All, by name, or just one; with up to 1000 open messages in all where `leases`. Raises `not_found`."""
        request = pb.ListGroupsRequest(name=name, leases=leases)
        return self._ask("ListGroups", request, pb.ListGroupsResponse.FromString).groups

    def reset_offset(
        self, group: str, topic: str, *, begin: bool = False, end: bool = False, time_ms: int | None = None
    ) -> pb.Group:
        """The group goes on from one of the three; `time_ms`: from what was stored then or later."""
        request = pb.ResetOffsetRequest(group=group, topic=topic)
        if begin + end + (time_ms is not None) != 1:
            raise AdminError("invalid", "say where to: begin, end or a time, one of the three")
        if time_ms is not None:
            request.time_ms = time_ms
        elif begin:
            request.begin = True
        else:
            request.end = True
        return self._ask("ResetOffset", request, pb.Group.FromString)

    def delete_group(self, name: str) -> None:
        """With its places and leases; its dead letters stay. Raises `not_found`."""
        self._ask("DeleteGroup", pb.DeleteGroupRequest(name=name), pb.DeleteGroupResponse.FromString)

    # -- messages ----------------------------------------------------------------------------------------------------

    def peek(
        self,
        topic: str,
        from_: Mapping[int, int] | None = None,
        *,
        from_begin: bool = False,
        from_end: bool = False,
        from_ms: int = 0,
        limit: int = 32,
        filter: str = "",  # noqa: A002  # the wire's word
        sql: str = "",
        wait_ms: int = 0,
    ) -> pb.PeekResponse:
        """Reads without taking anything from any group, from the begin where nothing else is said.

        `from_`: offsets by queue, as an earlier answer's `next`. An answer may hold fewer messages than there are.
        """
        request = pb.PeekRequest(
            topic=topic,
            offsets=from_,
            from_begin=from_begin,
            from_end=from_end,
            from_ms=from_ms,
            limit=limit,
            filter=filter,
            sql=sql,
            wait_ms=wait_ms,
        )
        return self._ask("Peek", request, pb.PeekResponse.FromString, wait_ms / 1000)

    def find(self, topic: str, message_id: str = "", key: str = "", limit: int = 32) -> Sequence[pb.Message]:
        """By id or by key, the newest first; empty where there is none. Raises `not_found` without such a topic."""
        request = pb.FindMessagesRequest(topic=topic, message_id=message_id, key=key, limit=limit)
        return self._ask("FindMessages", request, pb.PeekResponse.FromString).messages

    def locate(self, message_id: str, topic: str = "") -> Sequence[pb.Copy]:
        """Where the server has the message, the newest copy first, and what each group has made of it."""
        request = pb.LocateMessageRequest(message_id=message_id, topic=topic)
        return self._ask("LocateMessage", request, pb.LocateMessageResponse.FromString).copies

    def dead_letters(self, group: str, limit: int = 32) -> Sequence[pb.Message]:
        """Those that were not replayed yet, the oldest first."""
        request = pb.ListDeadLettersRequest(group=group, limit=limit)
        return self._ask("ListDeadLetters", request, pb.PeekResponse.FromString).messages

    def replay(self, group: str, message_ids: Sequence[str] = ()) -> int:
        """Delivers dead letters again, to this group alone; no ids: all not replayed yet. How many it were."""
        request = pb.ReplayDeadLettersRequest(group=group, message_ids=message_ids)
        return self._ask("ReplayDeadLetters", request, pb.ReplayDeadLettersResponse.FromString).replayed

    def timers(self, topic: str = "", limit: int = 32, number: int | None = None) -> Sequence[pb.Timer]:
        """Delayed messages that wait, the earliest first; or the one of that number."""
        request = pb.ListTimersRequest(topic=topic, limit=limit, number=number)
        return self._ask("ListTimers", request, pb.ListTimersResponse.FromString).timers

    def cancel_timer(self, number: int) -> None:
        """A delayed message will never be delivered."""
        self._ask("CancelTimer", pb.CancelTimerRequest(number=number), pb.CancelTimerResponse.FromString)

    def transactions(
        self, topic: str = "", limit: int = 32, number: int | None = None, *, parked: bool = False
    ) -> Sequence[pb.Transaction]:
        """Transactions that have not ended, in order of sending; or the one of that number."""
        request = pb.ListTransactionsRequest(topic=topic, limit=limit, number=number, parked=parked)
        return self._ask("ListTransactions", request, pb.ListTransactionsResponse.FromString).transactions

    def resolve_transaction(self, number: int, *, commit: bool) -> None:
        """Commits a transaction, or rolls it back."""
        request = pb.ResolveTransactionRequest(number=number, commit=commit)
        self._ask("ResolveTransaction", request, pb.ResolveTransactionResponse.FromString)

    def send(
        self,
        topic: str,
        body: bytes,
        tag: str = "",
        keys: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        message_group: str = "",
        delivery_ms: int | None = None,
        priority: int | None = None,
        lite_topic: str = "",
    ) -> Sent:
        """One message as any producer sends it; `delivery_ms` is the time of its delivery. Raises also `invalid`."""
        request = v2.SendMessageRequest()
        message = request.messages.add(body=body, user_properties=properties)
        message.topic.name = topic
        system = message.system_properties
        system.message_id = "01" + uuid4().hex.upper()
        system.keys.extend(keys)
        if tag:
            system.tag = tag
        if message_group:
            system.message_group = message_group
        if priority is not None:
            system.priority = priority
        if lite_topic:
            system.lite_topic = lite_topic
        if delivery_ms is not None:
            system.delivery_timestamp.seconds, rest_ms = divmod(delivery_ms, 1000)
            system.delivery_timestamp.nanos = rest_ms * 1_000_000
        path = "/apache.rocketmq.v2.MessagingService/SendMessage"
        response = self._call(path, request, v2.SendMessageResponse.FromString)
        if response.status.code != v2.OK or not response.entries:
            kind = _SEND_KINDS.get(
                response.status.code // 100, "invalid" if response.status.code < 50_000 else "failed"
            )
            raise AdminError(kind, _one_line(response.status.message) or f"the server answered {response.status.code}")
        return Sent(response.entries[0].message_id, response.entries[0].offset)

    # -- clients, health, tests --------------------------------------------------------------------------------------

    def clients(self, group: str = "") -> Sequence[pb.Client]:
        """Up to 1000, by id: all, or the consumers of one group. Raises `not_found`."""
        return self._ask("ListClients", pb.ListClientsRequest(group=group), pb.ListClientsResponse.FromString).clients

    def stack(self, client_id: str) -> str:
        """What the client's threads do now, in its own words. Raises `not_found` and `failed`."""
        request = pb.PrintThreadStackTraceRequest(client_id=client_id)
        told = self._ask("PrintThreadStackTrace", request, pb.PrintThreadStackTraceResponse.FromString, COMMAND_S)
        return told.thread_stack_trace

    def verify(self, group: str, message_id: str, client_id: str = "", topic: str = "") -> pb.VerifyMessageResponse:
        """Has a consumer of the group run its listener on a message; takes nothing from the group. Raises as stack."""
        request = pb.VerifyMessageRequest(group=group, message_id=message_id, client_id=client_id, topic=topic)
        return self._ask("VerifyMessage", request, pb.VerifyMessageResponse.FromString, COMMAND_S)

    def health(self) -> bool:
        """Whether the server says that it serves; False while it shuts down."""
        response = self._call(
            "/grpc.health.v1.Health/Check",
            health_pb.HealthCheckRequest(),
            health_pb.HealthCheckResponse.FromString,
        )
        return response.status == health_pb.HealthCheckResponse.SERVING

    def advance(self, ms: int) -> int:
        """Moves the server's clock and has it do what is due; its new time. Raises `invalid` without a manual clock."""
        return self._ask("Advance", pb.AdvanceRequest(ms=ms), pb.AdvanceResponse.FromString).now_ms

    def reset(self) -> None:
        """Deletes every topic and group but the configured ones. Raises `invalid` where the server keeps its data."""
        self._ask("Reset", pb.ResetRequest(), pb.ResetResponse.FromString)

    def _ask(self, method: str, request: Message, decode: Callable[[bytes], R], wait_s: float = 0.0) -> R:
        return self._call(f"/{SERVICE}/{method}", request, decode, wait_s)

    def _call(self, path: str, request: Message, decode: Callable[[bytes], R], wait_s: float = 0.0) -> R:
        import grpc

        call = cast("Callable[..., bytes]", self._channel.unary_unary(path))
        timeout_s = self._timeout_s + wait_s
        metadata = ((CLIENT_ID, f"rmq-admin@{os.getpid()}"),)
        try:
            return decode(call(request.SerializeToString(), timeout=timeout_s, metadata=metadata))
        except grpc.RpcError as error:
            self._fail(path, error.code().name, _one_line(error.details() or ""), timeout_s)
        except DecodeError:
            raise self._stranger("answers in another language") from None

    def _fail(self, path: str, code: str, details: str, timeout_s: float) -> NoReturn:
        if details.startswith("Received http2 header with status"):
            raise self._stranger("speaks HTTP/2 but not gRPC") from None
        match code:
            case "UNAVAILABLE":
                raise self._unanswered(f"ends just now ({details}); try again") from None
            case "DEADLINE_EXCEEDED":
                text = f"did not answer within {timeout_s:g} s: it is busy or stopped; try again, or allow more time"
                raise self._unanswered(text) from None
            case "UNIMPLEMENTED":
                text = (
                    f"the server at {self.endpoint} does not serve {path[1:]}: it is an Apache RocketMQ or an older rmq"
                )
                raise AdminError("not_ours", f"{text}; name the endpoint of a current rmq") from None
            case _:
                raise AdminError(_KINDS.get(code, "failed"), details or f"the server answered {code}") from None

    def _unanswered(self, busy: str) -> AdminError:
        """Looks who is there; `busy` says what to make of a server that could be ours."""
        found, reason = probe(self._host, self._port)
        match found:
            case Found.NO_HOST:
                return AdminError("down", f"there is no host {self._host} ({reason}); check the endpoint's name")
            case Found.NOTHING:
                text = f"nothing listens at {self.endpoint} ({reason}); start `rmq serve`, or name another endpoint"
                return AdminError("down", text)
            case Found.STRANGER:
                return self._stranger("does not speak gRPC")
            case _:
                return AdminError("busy", f"the server at {self.endpoint} {busy}")

    def _stranger(self, what: str) -> AdminError:
        return AdminError("not_ours", f"what listens at {self.endpoint} {what}: no RocketMQ server; check the port")


def split_endpoint(text: str) -> tuple[str, int]:
    """Host, without brackets, and port, 8081 where none is given. Raises AdminError `invalid`."""
    try:
        host, port = parse_endpoint(text)
    except ValueError:
        host, port = text[1:-1] if text[:1] + text[-1:] == "[]" else text, PORT
    if _HOST.fullmatch(host) or _is_ipv6(host):
        return host, port
    raise AdminError("invalid", f"{_one_line(text)[:80]!r} is no endpoint; write HOST:PORT, such as localhost:8081")


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _one_line(text: str) -> str:
    return " ".join(text.split())
