"""The Telemetry streams: settings in and out, and what the broker asks of clients (implements rmq.port.ClientPort).

A client may hold several streams, one per address it reaches us by; commands go to the newest, and the older ones stay:
ending them would make the client reopen them for ever. The end of a stream is no goodbye, liveness is `Sessions`'
business (facts: grpc.md 2.1). But streams of Java's clients that are gone are ended: see Telemetry.dismiss.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import TypeVar

import msgspec

from rmq.errors import ClientError, Code
from rmq.filter import Filters
from rmq.message import Delivered
from rmq.port import Answer, BrokerPort, GroupView
from rmq_proto import v2
from rmq_proxy import convert, settings, validate
from rmq_proxy.answers import ignore, then
from rmq_proxy.caller import CLIENT_ID, CLIENT_VERSION, LANGUAGE, Caller, parse
from rmq_proxy.rpc import Call, GrpcCode, Inlet, Kind, Outlet, Row, RpcError
from rmq_proxy.sessions import Sessions
from rmq_proxy.status import explain, plain
from rmq_proxy.validate import Limits

R = TypeVar("R")

COMMAND_TIMEOUT_S = 5.0  # RocketMQ 5.5: an admin's question to a client expires after 5 s


def _swallow(call: Call, data: bytes) -> bytes:
    """An empty ExportMetricsServiceResponse: all accepted. Nothing is kept."""
    return b""


METRIC_SINK = Row(
    path="/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    kind=Kind.UNARY,
    handler=_swallow,
    limit="client",
)


class Question(msgspec.Struct):
    """What a client was asked and has not answered."""

    client_id: str
    answer: "asyncio.Future[v2.TelemetryCommand]"


class Telemetry:
    """All Telemetry streams of this process."""

    def __init__(self, broker: BrokerPort, sessions: Sessions, limits: Limits, filters: Filters) -> None:
        self._broker = broker
        self._sessions = sessions
        self._limits = limits
        self._filters = filters
        self._streams: dict[str, list[Stream]] = {}  # by client id, the newest last
        self._questions: dict[str, Question] = {}  # by nonce
        self._nonces = itertools.count(1)
        sessions.tells_gone(self.dismiss)

    def __len__(self) -> int:
        """Streams that are open."""
        return sum(map(len, self._streams.values()))

    def open(self, call: Call, outlet: Outlet) -> Inlet:
        """The handler of the Telemetry row."""
        return Stream(self, self._sessions, call, outlet)

    def add(self, client_id: str, stream: "Stream") -> None:
        """From now on commands for this client go to `stream`."""
        self._streams.setdefault(client_id, []).append(stream)

    def remove(self, client_id: str, stream: "Stream") -> None:
        """`stream` is over."""
        streams = self._streams[client_id]
        streams.remove(stream)
        if not streams:
            del self._streams[client_id]
            self._left(client_id)

    def dismiss(self, client_id: str) -> None:
        """Ends the streams of a client that is gone, if it is Java's: one that is closed just after its stream broke
        opens it once more, never ends it, and its `close()` waits for that end for ever. One that is only silent (a
        debugger) opens it anew when it goes on; other SDKs do neither (facts: grpc.md 2.5).
        """
        for stream in [one for one in self._streams.get(client_id, ()) if one.is_javas()]:
            stream.finish()

    def _left(self, client_id: str) -> None:
        """Whoever asked it something need not wait."""
        for question in self._questions.values():
            if question.client_id == client_id and not question.answer.done():
                question.answer.set_exception(_no_stream(client_id))

    def call_of(self, client_id: str) -> Call | None:
        """Its newest stream's call: peer and headers. None where no stream is open."""
        streams = self._streams.get(client_id)
        return streams[-1].call if streams else None

    def settings(self, caller: Caller, sent: v2.Settings) -> Answer[bytes]:
        """Takes note of a client's settings; returns the encoded reply. Raises ClientError, or is its Future."""
        if sent.ByteSize() > validate.SETTINGS_BYTES_MAX:
            text = f"settings are larger than {validate.SETTINGS_BYTES_MAX} bytes; name fewer topics"
            raise ClientError(Code.BAD_REQUEST, text)
        validate.client_properties(dict(sent.client_properties.items()))
        match sent.WhichOneof("pub_sub"):
            case "publishing":
                return self._publishing(caller, sent)
            case "subscription":
                return self._subscription(caller, sent)
            case _:
                raise ClientError(Code.BAD_REQUEST, "settings need `publishing` or `subscription`")

    def _publishing(self, caller: Caller, sent: v2.Settings) -> bytes:
        topics = frozenset(caller.topic(topic) for topic in sent.publishing.topics)
        first = next(iter(sent.publishing.topics), v2.Resource())
        self._sessions.publishes(caller.client_id, caller.namespace(first), sent, topics)
        self._broker.producing(topics)
        return settings.for_producer(sent, self._limits)

    def _subscription(self, caller: Caller, sent: v2.Settings) -> Answer[bytes]:
        group = caller.group(sent.subscription.group)
        entries = sent.subscription.subscriptions
        self._filters.check_total(sum(len(e.expression.expression) for e in entries if e.expression.type == v2.SQL))
        wanted = {
            caller.topic(entry.topic): validate.filter_expression(
                entry.expression.type, entry.expression.expression, self._filters
            )
            for entry in entries
        }
        language, version = caller.call.header(LANGUAGE), caller.call.header(CLIENT_VERSION)

        def reply(view: GroupView) -> bytes:
            told = msgspec.structs.replace(view, fifo=self._sessions.tells(caller.client_id, fifo=view.fifo))
            return settings.for_consumer(sent, told, self._limits, language, version)

        namespace = caller.namespace(sent.subscription.group)
        known = self._sessions.subscribes(caller.client_id, namespace, sent, group, wanted)
        return then(known, lambda _: then(self._broker.group(group, wanted), reply))

    def answered(self, client_id: str, nonce: str, command: v2.TelemetryCommand) -> None:
        """A client's answer to a question; late, unasked or foreign ones are dropped."""
        question = self._questions.get(nonce)
        if question is not None and question.client_id == client_id and not question.answer.done():
            question.answer.set_result(command)

    def check_transaction(self, topic: str, message: Delivered, transaction_id: str) -> bool:
        """Asks a producer of `topic`: first the one whose settings came last, with each attempt the one before. False
        where none has a stream.
        """
        live = [client_id for client_id in self._sessions.producers_of(topic) if client_id in self._streams]
        if not live:
            return False
        client_id = live[-message.attempt % len(live)]
        command = v2.TelemetryCommand()
        check = command.recover_orphaned_transaction_command
        self._fill(check.message, client_id, message)
        check.transaction_id = transaction_id
        self._write(client_id, command)
        return True

    def verify(self, group: str, client_id: str, message: Delivered) -> "asyncio.Future[ClientError | None]":
        """Has one client consume `message`: None if it could, else what it answered. Fails with ClientError as
        `stack`.
        """

        def put(command: v2.TelemetryCommand, nonce: str) -> None:
            command.verify_message_command.nonce = nonce
            self._fill(command.verify_message_command.message, client_id, message)

        return self._ask(client_id, put, _refusal)

    def stack(self, group: str, client_id: str) -> "asyncio.Future[str]":
        """One client's thread stack. Fails with NOT_FOUND where it has no stream, PROXY_TIMEOUT after 5 s, or its own
        error.
        """

        def put(command: v2.TelemetryCommand, nonce: str) -> None:
            command.print_thread_stack_trace_command.nonce = nonce

        def text(reply: v2.TelemetryCommand) -> str:
            error = _refusal(reply)
            if error is not None:
                raise error
            return reply.thread_stack_trace.thread_stack_trace

        return self._ask(client_id, put, text)

    def unsubscribe_lite(self, client_id: str, lite_topic: str) -> None:
        """Tells a client, where it has a stream, that its subscription has ended."""
        if client_id in self._streams:
            command = v2.TelemetryCommand()
            command.notify_unsubscribe_lite_command.lite_topic = lite_topic
            self._write(client_id, command)

    def reconnect(self) -> int:
        """Tells Java's clients to connect anew, as this server is about to stop; on every stream, for each is of a
        connection. The others ignore it at best, and an old Node's takes it for a broken status. Returns how many
        streams were told.
        """
        told = [stream for streams in self._streams.values() for stream in streams if stream.is_javas()]
        command = v2.TelemetryCommand()
        for stream in told:
            command.reconnect_endpoints_command.nonce = str(next(self._nonces))
            stream.write(command.SerializeToString())
        return len(told)

    def _ask(
        self,
        client_id: str,
        put: Callable[[v2.TelemetryCommand, str], None],
        read: Callable[[v2.TelemetryCommand], R],
    ) -> "asyncio.Future[R]":
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[v2.TelemetryCommand] = loop.create_future()
        if client_id in self._streams:
            nonce = str(next(self._nonces))
            self._questions[nonce] = Question(client_id, reply)
            timer = loop.call_later(COMMAND_TIMEOUT_S, _expire, reply)
            reply.add_done_callback(lambda _: self._settle(nonce, timer))
            command = v2.TelemetryCommand()
            put(command, nonce)
            self._write(client_id, command)
        else:
            reply.set_exception(_no_stream(client_id))
        answer = then(reply, read)
        assert isinstance(answer, asyncio.Future)
        return answer

    def _settle(self, nonce: str, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        del self._questions[nonce]

    def _fill(self, target: v2.Message, client_id: str, message: Delivered) -> None:
        client = self._sessions.get(client_id)
        namespace, name = convert.split_namespace(client.namespace if client else "", message.topic)
        convert.deliver(target, message, namespace, name)

    def _write(self, client_id: str, command: v2.TelemetryCommand) -> None:
        self._streams[client_id][-1].write(command.SerializeToString())


class Stream:
    """One Telemetry stream, the client's half of it (an rpc.Inlet)."""

    def __init__(self, owner: Telemetry, sessions: Sessions, call: Call, outlet: Outlet) -> None:
        self._owner = owner
        self._sessions = sessions
        self.call = call
        self._outlet = outlet
        self._client_id = call.header(CLIENT_ID)
        if self._client_id:
            owner.add(self._client_id, self)

    def is_javas(self) -> bool:
        """Whether the client's SDK opens a stream anew whose end it did not want: Java's alone does at once."""
        return self.call.header(LANGUAGE) == "JAVA"

    def finish(self) -> None:
        """Nothing more is to be said; the client reads OK."""
        self._outlet.finish()

    def write(self, data: bytes) -> None:
        """Sends an encoded TelemetryCommand to the client."""
        self._outlet.write(data)

    def message(self, data: bytes) -> None:
        """Settings, or the answer to a question; other commands are none of a client's and are ignored."""
        command = parse(v2.TelemetryCommand.FromString, data)
        try:
            caller = Caller(self.call, self._sessions)
        except ClientError as error:  # Apache: a status command, then the end of the stream
            self._outlet.write(plain(v2.TelemetryCommand, error.code, error.text))
            self._outlet.finish()
            return
        if self.is_javas() and self._sessions.has_left(self._client_id):
            self.finish()
            return
        match command.WhichOneof("command"):
            case "settings":
                self._settings(caller, command.settings)
            case "thread_stack_trace":
                self._owner.answered(self._client_id, command.thread_stack_trace.nonce, command)
            case "verify_message_result":
                self._owner.answered(self._client_id, command.verify_message_result.nonce, command)
            case "verify_message_command":  # Node's SDK refuses with the question instead of a result
                self._owner.answered(self._client_id, command.verify_message_command.nonce, command)

    def _settings(self, caller: Caller, sent: v2.Settings) -> None:
        try:
            ignore(then(self._owner.settings(caller, sent), self._outlet.write, self._refuse), "settings")
        except ClientError as error:
            raise refusal(error) from None

    def _refuse(self, error: Exception) -> None:
        refused = refusal(error)
        self._outlet.finish(refused.code, refused.text)

    def half_closed(self) -> None:
        """Apache completes the stream when the client does; that is no goodbye."""
        self._outlet.finish()

    def closed(self) -> None:
        """Over."""
        if self._client_id:
            self._owner.remove(self._client_id, self)


def refusal(error: Exception) -> RpcError:
    """How a stream ends after bad settings: the gRPC status by culprit, RocketMQ's code in the text (facts: grpc.md
    2.1).
    """
    told = explain(error)
    code = GrpcCode.INVALID_ARGUMENT if 40000 <= told.code.value < 50000 else GrpcCode.INTERNAL
    if told.code is Code.TOO_MANY_REQUESTS:
        code = GrpcCode.RESOURCE_EXHAUSTED
    return RpcError(code, f"{told.code.name} {told.code.value}: {told.text}")


def _no_stream(client_id: str) -> ClientError:
    return ClientError(Code.NOT_FOUND, f"client {client_id} has no Telemetry stream here")


def _expire(reply: "asyncio.Future[v2.TelemetryCommand]") -> None:
    if not reply.done():
        reply.set_exception(
            ClientError(Code.PROXY_TIMEOUT, f"the client did not answer within {COMMAND_TIMEOUT_S:g} s")
        )


def _refusal(reply: v2.TelemetryCommand) -> ClientError | None:
    """What a client answered instead of OK; the C++ client answers without a status when all is well."""
    if not reply.HasField("status") or reply.status.code == Code.OK.value:
        return None
    known = {code.value: code for code in Code}
    return ClientError(known.get(reply.status.code, Code.INTERNAL_ERROR), reply.status.message)
