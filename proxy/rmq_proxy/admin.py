"""The admin service rmq.admin.v1.Admin: what the command line and the test fixture ask of a server.

Promises: peers on this machine only, unless `admin_remote` says otherwise; every answer is bounded; a Peek that waits
costs no task, and leaves nothing behind when its client goes. Does not know what the tables mean: that is
rmq.adminport's side. Errors are gRPC statuses (`refusal` is the one table), their text is one line.
"""

import functools
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn, TypeVar

from google.protobuf.message import Message

from rmq.adminport import AdminPort, GroupInfo, Kept, Page, Start, Timer, TopicInfo, Transaction
from rmq.clock import Clock
from rmq.config import GROUP_FLAGS, GroupFlags, parse_endpoint
from rmq.errors import ClientError, Code
from rmq.filter import Filter, Filters, by_tag
from rmq.message import MessageType
from rmq.port import Answer
from rmq.retry import MULTIPLIER_MAX, RetryPolicy
from rmq_proto import admin as pb
from rmq_proxy import adminconvert as convert
from rmq_proxy import validate
from rmq_proxy.adminclients import AdminClients
from rmq_proxy.adminconvert import Facts
from rmq_proxy.adminwait import Waits
from rmq_proxy.answers import in_turns, let_go, then
from rmq_proxy.caller import parse
from rmq_proxy.rpc import Call, GrpcCode, Kind, Row, RpcError
from rmq_proxy.sessions import Sessions
from rmq_proxy.telemetry import Telemetry

Request = TypeVar("Request")
Reply = TypeVar("Reply", bound="Message | bytes")

NAME = "rmq.admin.v1.Admin"
TOPIC_TYPES = ("NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "LITE", "MIXED")
MESSAGES_DEFAULT = 32
MESSAGES_MAX = 1000
PAGE_BYTES_MAX = 3 * 1024 * 1024  # a stock gRPC client refuses an answer beyond 4 MiB
NAMES_A_TURN = 30  # topics or groups that are looked at before others get their turn: 2 ms, at 8 queues each
LEASES_MAX = 1000
ATTEMPTS_MAX = 1000
RETRY_STEPS_MAX = 64
RETRY_MS_MAX = 604_800_000  # a week, as in config.yaml
ADVANCE_MS_MAX = 3_660 * 86_400_000  # ten years

_STATUS = {
    400: GrpcCode.INVALID_ARGUMENT,
    401: GrpcCode.UNAUTHENTICATED,
    403: GrpcCode.FAILED_PRECONDITION,
    404: GrpcCode.NOT_FOUND,
    408: GrpcCode.DEADLINE_EXCEEDED,
    413: GrpcCode.INVALID_ARGUMENT,
    428: GrpcCode.FAILED_PRECONDITION,
    429: GrpcCode.RESOURCE_EXHAUSTED,
    431: GrpcCode.INVALID_ARGUMENT,
    501: GrpcCode.FAILED_PRECONDITION,  # not UNIMPLEMENTED: that tells a client that there is no admin service at all
    505: GrpcCode.FAILED_PRECONDITION,
}
"""By the first three digits of RocketMQ's code; all else is INTERNAL."""


class AdminService:
    """The service over the broker's tables and the proxy's clients. `remote`: peers on other machines may call, too."""

    def __init__(
        self,
        admin: AdminPort,
        sessions: Sessions,
        telemetry: Telemetry,
        facts: Facts,
        clock: Clock,
        filters: Filters,
        *,
        remote: bool = False,
    ) -> None:
        self._admin = admin
        self._sessions = sessions
        self._facts = facts
        self._clock = clock
        self._filters = filters
        self._remote = remote
        self._waits = Waits(admin)
        self._clients = AdminClients(admin, sessions, telemetry, clock)

    def rows(self) -> list[Row]:
        """For the table of served calls."""
        return [
            self._row("Describe", "Get", pb.DescribeRequest.FromString, self._describe),
            self._row("PutTopic", "Create", pb.PutTopicRequest.FromString, self._put_topic),
            self._row("ListTopics", "List", pb.ListTopicsRequest.FromString, self._list_topics),
            self._row("DeleteTopic", "Delete", pb.DeleteTopicRequest.FromString, self._delete_topic),
            self._row("PutGroup", "Create", pb.PutGroupRequest.FromString, self._put_group),
            self._row("ListGroups", "List", pb.ListGroupsRequest.FromString, self._list_groups),
            self._row("ResetOffset", "Update", pb.ResetOffsetRequest.FromString, self._reset_offset),
            self._row("DeleteGroup", "Delete", pb.DeleteGroupRequest.FromString, self._delete_group),
            self._row("Peek", "Get", pb.PeekRequest.FromString, self._peek, abandoned=let_go),
            self._row("FindMessages", "Get", pb.FindMessagesRequest.FromString, self._find, abandoned=let_go),
            self._row("ListDeadLetters", "List", pb.ListDeadLettersRequest.FromString, self._list_dead_letters),
            self._row("ReplayDeadLetters", "Update", pb.ReplayDeadLettersRequest.FromString, self._replay),
            self._row("ListTimers", "List", pb.ListTimersRequest.FromString, self._list_timers),
            self._row("CancelTimer", "Delete", pb.CancelTimerRequest.FromString, self._cancel_timer),
            self._row("LocateMessage", "Get", pb.LocateMessageRequest.FromString, self._locate, abandoned=let_go),
            self._row("ListTransactions", "List", pb.ListTransactionsRequest.FromString, self._list_transactions),
            self._row("ResolveTransaction", "Update", pb.ResolveTransactionRequest.FromString, self._resolve),
            *self._client_rows(),
            self._row("Advance", "Update", pb.AdvanceRequest.FromString, self._advance),
            self._row("Reset", "Delete", pb.ResetRequest.FromString, self._reset),
        ]

    def _client_rows(self) -> list[Row]:
        stack, verify = pb.PrintThreadStackTraceRequest.FromString, pb.VerifyMessageRequest.FromString
        return [
            self._row("ListClients", "List", pb.ListClientsRequest.FromString, self._clients.list),
            self._row("PrintThreadStackTrace", "Get", stack, self._clients.stack, abandoned=let_go),
            self._row("VerifyMessage", "Update", verify, self._clients.verify, abandoned=let_go),
        ]

    def end_waits(self) -> None:
        """Shutdown begins: every Peek that waits is answered, with no message, and none waits any more."""
        self._waits.close()

    def _row(
        self,
        method: str,
        action: str,
        decode: Callable[[bytes], Request],
        answer: Callable[[Call, Request], Answer[Reply]],
        *,
        abandoned: Callable[[Reply], None] | None = None,
    ) -> Row:
        def handle(call: Call, data: bytes) -> Answer[bytes]:
            self._admit(call)
            request = parse(decode, data)
            try:
                return then(answer(call, request), _encode, _refuse, abandoned)
            except ClientError as error:
                raise refusal(error) from None

        return Row(f"/{NAME}/{method}", Kind.UNARY, handle, action, "client")

    def _admit(self, call: Call) -> None:
        if not (self._remote or is_local(call.peer)):
            text = (
                f"admin calls from {call.peer} are refused: set admin_remote: true for the server to take any from afar"
            )
            raise RpcError(GrpcCode.PERMISSION_DENIED, text)

    def _describe(self, _: Call, request: pb.DescribeRequest) -> pb.Server:
        del request
        return convert.server(self._facts, self._admin.describe(), len(self._sessions), self._clock.wall_ms())

    # -- topics ------------------------------------------------------------------------------------------------------

    def _put_topic(self, _: Call, request: pb.PutTopicRequest) -> Answer[pb.Topic]:
        name = validate.topic_name("", request.name)
        kind = _topic_type(request.type)
        if request.queues < 0:
            raise _bad(f"queues is {request.queues}; give 1 or more, or 0 for the server's default")
        self._must(request, f"topic {name}", lambda: self._admin.topic(name), Code.TOPIC_NOT_FOUND)
        return then(self._admin.put_topic(name, kind, request.queues), convert.topic)

    def _list_topics(self, _: Call, request: pb.ListTopicsRequest) -> Answer[bytes]:
        found = [self._admin.topic(request.name)] if request.name else self._admin.topics()
        return _listed(pb.ListTopicsResponse(topics=[convert.topic(one)]) for one in found)

    def _delete_topic(self, _: Call, request: pb.DeleteTopicRequest) -> Answer[pb.DeleteTopicResponse]:
        return then(self._admin.delete_topic(_given("topic", request.name)), lambda _: pb.DeleteTopicResponse())

    # -- groups ------------------------------------------------------------------------------------------------------

    def _put_group(self, _: Call, request: pb.PutGroupRequest) -> Answer[pb.Group]:
        name = validate.group_name("", request.name)
        if not 0 <= request.attempts_max <= ATTEMPTS_MAX:
            raise _bad(
                f"attempts_max is {request.attempts_max}; give 1 to {ATTEMPTS_MAX}, or 0 for the server's default"
            )
        steps_ms = tuple(request.retry_ms)
        if len(steps_ms) > RETRY_STEPS_MAX or not all(1 <= step_ms <= RETRY_MS_MAX for step_ms in steps_ms):
            raise _bad(f"retry_ms takes up to {RETRY_STEPS_MAX} numbers from 1 to {RETRY_MS_MAX}")
        retry = RetryPolicy(steps_ms) if steps_ms else None
        if request.HasField("backoff"):
            if steps_ms:
                raise _bad("retry_ms and backoff exclude each other")
            retry = _backoff(request.backoff)
        self._must(request, f"group {name}", lambda: self._admin.group_info(name), Code.CONSUMER_GROUP_NOT_FOUND)
        return then(self._admin.put_group(name, request.attempts_max, retry, _flags(request)), convert.group)

    def _list_groups(self, _: Call, request: pb.ListGroupsRequest) -> Answer[bytes]:
        if request.name:
            found: Iterable[GroupInfo] = [self._admin.group_info(request.name)]
        else:
            found = self._admin.groups()
        groups = self._with_leases(found) if request.leases else map(convert.group, found)
        return _listed(pb.ListGroupsResponse(groups=[group]) for group in groups)

    def _with_leases(self, found: Iterable[GroupInfo]) -> Iterator[pb.Group]:
        """With their open messages, LEASES_MAX in all."""
        left = LEASES_MAX
        for info in found:
            whole = self._admin.group_info(info.name, open_max=left) if left and _holds(info) else info
            group = convert.group(whole, left)
            left -= sum(len(topic.leases) for topic in group.topics)
            yield group

    def _reset_offset(self, _: Call, request: pb.ResetOffsetRequest) -> Answer[pb.Group]:
        group, topic = _given("group", request.group), _given("topic", request.topic)
        match request.WhichOneof("to"):
            case "begin":
                start = Start()
            case "end":
                start = Start(end=True)
            case "time_ms":
                start = Start(time_ms=_not_negative("time_ms", request.time_ms))
            case _:
                raise _bad("say where to: begin, end or time_ms")
        return then(self._admin.reset_offset(group, topic, start), convert.group)

    def _delete_group(self, _: Call, request: pb.DeleteGroupRequest) -> Answer[pb.DeleteGroupResponse]:
        return then(self._admin.delete_group(_given("group", request.name)), lambda _: pb.DeleteGroupResponse())

    # -- messages ----------------------------------------------------------------------------------------------------

    def _peek(self, call: Call, request: pb.PeekRequest) -> Answer[pb.PeekResponse]:
        topic, limit = _given("topic", request.topic), _limit(request.limit)
        start, wait_ms = _start(request), _not_negative("wait_ms", request.wait_ms)
        rest = start.rest or start.offsets is None
        wanted = self._wanted(request)
        found = self._admin.peek(topic, start, limit, wanted)
        if found.messages or not wait_ms:
            return _page(found)
        waiting = self._waits.add(topic, wanted, limit, found, call.deadline_s, wait_ms, rest=rest)
        return then(waiting, _page, None, let_go)

    def _wanted(self, request: pb.PeekRequest) -> Filter:
        if not request.sql:
            return by_tag(request.filter)
        if request.filter:
            raise _bad("give filter or sql, one of the two")
        return self._filters.by_sql(request.sql)

    def _find(self, _: Call, request: pb.FindMessagesRequest) -> Answer[pb.PeekResponse]:
        topic, limit = _given("topic", request.topic), _limit(request.limit)
        if bool(request.message_id) == bool(request.key):
            raise _bad("give message_id or key, one of the two")
        found = self._admin.find(topic, message_id=request.message_id, key=request.key, limit=limit)
        return then(found, _messages, None, let_go)

    def _locate(self, _: Call, request: pb.LocateMessageRequest) -> Answer[pb.LocateMessageResponse]:
        def answer(copies: Sequence[Kept]) -> pb.LocateMessageResponse:
            told = [convert.copy(one, self._admin.whereabouts(one)) for one in copies]
            return pb.LocateMessageResponse(copies=told)

        return then(self._admin.copies(request.message_id, request.topic), answer, None, let_go)

    def _list_dead_letters(self, _: Call, request: pb.ListDeadLettersRequest) -> pb.PeekResponse:
        return _page(self._admin.dead_letters(_given("group", request.group), _limit(request.limit)))

    def _replay(self, _: Call, request: pb.ReplayDeadLettersRequest) -> Answer[pb.ReplayDeadLettersResponse]:
        replayed = self._admin.replay(_given("group", request.group), tuple(request.message_ids))
        return then(replayed, lambda count: pb.ReplayDeadLettersResponse(replayed=count))

    # -- delayed messages --------------------------------------------------------------------------------------------

    def _list_timers(self, _: Call, request: pb.ListTimersRequest) -> Answer[bytes]:
        limit = _limit(request.limit)
        if request.HasField("number"):
            found: Iterable[Timer] = [self._admin.timer(request.number)]
        else:
            found = self._admin.timers(request.topic, limit)
        return _listed(pb.ListTimersResponse(timers=[timer]) for timer in convert.timers(found, PAGE_BYTES_MAX))

    def _cancel_timer(self, _: Call, request: pb.CancelTimerRequest) -> Answer[pb.CancelTimerResponse]:
        return then(self._admin.cancel_timer(request.number), lambda _: pb.CancelTimerResponse())

    # -- transactions ------------------------------------------------------------------------------------------------

    def _list_transactions(self, _: Call, request: pb.ListTransactionsRequest) -> Answer[bytes]:
        limit = _limit(request.limit)
        if request.HasField("number"):
            found: Iterable[Transaction] = [self._admin.transaction(request.number)]
        else:
            found = self._admin.transactions(request.topic, limit, parked=request.parked)
        told = convert.transactions(found, PAGE_BYTES_MAX)
        return _listed(pb.ListTransactionsResponse(transactions=[one]) for one in told)

    def _resolve(self, _: Call, request: pb.ResolveTransactionRequest) -> Answer[pb.ResolveTransactionResponse]:
        ended = self._admin.end_transaction(request.number, commit=request.commit)
        return then(ended, lambda _: pb.ResolveTransactionResponse())

    # -- tests -------------------------------------------------------------------------------------------

    def _advance(self, _: Call, request: pb.AdvanceRequest) -> Answer[pb.AdvanceResponse]:
        if not 0 <= request.ms <= ADVANCE_MS_MAX:
            raise _bad(f"time only moves forward, by 0 to {ADVANCE_MS_MAX} ms, not by {request.ms}")
        return then(self._admin.advance(request.ms), lambda now_ms: pb.AdvanceResponse(now_ms=now_ms))

    def _reset(self, _: Call, request: pb.ResetRequest) -> Answer[pb.ResetResponse]:
        del request
        return then(self._admin.reset(), lambda _: pb.ResetResponse())

    def _must(
        self,
        request: pb.PutTopicRequest | pb.PutGroupRequest,
        what: str,
        look: Callable[[], TopicInfo | GroupInfo],
        missing: Code,
    ) -> None:
        """What `must_be_new` and `must_exist` ask. Raises ALREADY_EXISTS, and `look`'s own error."""
        if not (request.must_be_new or request.must_exist):
            return
        try:
            look()
        except ClientError as error:
            if request.must_exist or error.code is not missing:
                raise
        else:
            if request.must_be_new:
                raise RpcError(GrpcCode.ALREADY_EXISTS, f"{what} is there already; update it, or choose another name")


def refusal(error: ClientError) -> RpcError:
    """The status for what the caller did wrong."""
    return RpcError(_STATUS.get(error.code.value // 100, GrpcCode.INTERNAL), error.text or error.code.name)


@functools.lru_cache(1024)
def is_local(peer: str) -> bool:
    """Whether "host:port" is a loopback address, ::ffff:127.0.0.1 included."""
    try:
        host, _ = parse_endpoint(peer)
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


def _holds(info: GroupInfo) -> bool:
    """Whether it has open messages."""
    return any(topic.leased or topic.ready for topic in info.topics)


def _encode(reply: Message | bytes) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _listed(rows: Iterable[Message]) -> Answer[bytes]:
    """Each row is an answer that holds one item; behind each other they are the answer that holds all."""
    parts: list[bytes] = []
    return then(in_turns(map(parts.append, map(_encode, rows)), parts, NAMES_A_TURN), b"".join)


def _refuse(error: Exception) -> NoReturn:
    raise refusal(error) if isinstance(error, ClientError) else error


def _page(found: Page) -> pb.PeekResponse:
    return convert.page(convert.within(found, PAGE_BYTES_MAX))


def _messages(found: Sequence[Kept]) -> pb.PeekResponse:
    return convert.page(Page(convert.within(Page(found, {}), PAGE_BYTES_MAX).messages, {}))


def _topic_type(name: str) -> MessageType | None:
    if name and name not in TOPIC_TYPES:
        raise _bad(f"there is no topic type {name[:80]!r}; choose {', '.join(TOPIC_TYPES[:-1])} or {TOPIC_TYPES[-1]}")
    return MessageType[name] if name else None


def _start(request: pb.PeekRequest) -> Start:
    chosen = [bool(request.offsets) or request.from_begin, request.from_end, request.from_ms != 0]
    if sum(chosen) > 1:
        raise _bad("offsets or from_begin, from_end and from_ms exclude each other; give one of them")
    if request.offsets:
        offsets = {queue: _not_negative("offset", at) for queue, at in request.offsets.items()}
        return Start(offsets=offsets, rest=request.from_begin)
    if request.from_ms:
        return Start(time_ms=_not_negative("from_ms", request.from_ms))
    return Start(end=request.from_end)


def _limit(asked: int) -> int:
    if not 0 <= asked <= MESSAGES_MAX:
        raise _bad(f"limit is {asked}; give 1 to {MESSAGES_MAX}, or 0 for {MESSAGES_DEFAULT}")
    return asked or MESSAGES_DEFAULT


def _given(what: str, name: str) -> str:
    if not name.strip():
        raise _bad(f"name a {what}")
    return name


def _not_negative(what: str, number: int) -> int:
    if number < 0:
        raise _bad(f"{what} cannot be negative, it is {number}")
    return number


def _bad(text: str) -> ClientError:
    return ClientError(Code.BAD_REQUEST, text)


def _flags(asked: pb.PutGroupRequest) -> GroupFlags:
    return GroupFlags(**{name: getattr(asked, name) for name in GROUP_FLAGS if asked.HasField(name)})


def _backoff(asked: pb.Backoff) -> RetryPolicy:
    if not 1 <= asked.initial_ms <= asked.max_ms <= RETRY_MS_MAX:
        raise _bad(f"backoff goes from initial_ms to max_ms, 1 to {RETRY_MS_MAX}")
    if not 1 <= asked.multiplier <= MULTIPLIER_MAX:
        raise _bad(f"multiplier is {asked.multiplier:g}, it takes 1 to {MULTIPLIER_MAX}")
    return RetryPolicy((), asked.initial_ms, asked.max_ms, asked.multiplier)
