"""The table of apache.rocketmq.v2.MessagingService: all 17 methods over the broker's verbs.

A handler is: parse, validate, one broker call, encode; its answer is bytes, or a Future of them where the broker's is.
What goes wrong is told in the response's status under gRPC OK, as every SDK expects; a gRPC error means that the call
itself was broken. Sending and consuming have files of their own; here are routes, liveness and the table.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq.filter import Filters
from rmq.port import Answer, BrokerPort, BrokerQueues, GroupView
from rmq_proto import v2
from rmq_proxy.answers import then
from rmq_proxy.caller import Caller, parse
from rmq_proxy.consume import ACK_FAILED, CHANGE_FAILED, DEAD_LETTER_FAILED, Consuming
from rmq_proxy.endpoints import Advertiser
from rmq_proxy.knowntypes import known
from rmq_proxy.litesync import FAILED as SYNC_FAILED
from rmq_proxy.litesync import LiteSyncing
from rmq_proxy.produce import END_FAILED, RECALL_FAILED, Producing
from rmq_proxy.produce import FAILED as SEND_FAILED
from rmq_proxy.pulling import GET_FAILED, QUERY_FAILED, UPDATE_FAILED, Pulling, pull_failed
from rmq_proxy.rates import Rates
from rmq_proxy.rpc import Call, Kind, Listing, Row, Unary
from rmq_proxy.sessions import Sessions
from rmq_proxy.status import Failed, code_of, plain, write_ok
from rmq_proxy.telemetry import METRIC_SINK, Telemetry
from rmq_proxy.validate import Limits

Request = TypeVar("Request")

SERVICE = "/apache.rocketmq.v2.MessagingService/"
ROUTE_FAILED = Failed(v2.QueryRouteResponse)
ASSIGNMENT_FAILED = Failed(v2.QueryAssignmentResponse)
HEARTBEAT_FAILED = Failed(v2.HeartbeatResponse)
HEARTBEAT_OK = plain(v2.HeartbeatResponse)
TERMINATION_FAILED = Failed(v2.NotifyClientTerminationResponse)
TERMINATION_OK = plain(v2.NotifyClientTerminationResponse)
CLIENT_TYPES = frozenset(v2.ClientType.values()) - {v2.CLIENT_TYPE_UNSPECIFIED}


class Messaging:
    """The service; `advertise` is HOST:PORT or empty. Raises ConfigError when it is neither."""

    def __init__(
        self,
        broker: BrokerPort,
        sessions: Sessions,
        telemetry: Telemetry,
        limits: Limits,
        advertise: str | None,
        clock: Clock,
        filters: Filters,
        rates: Rates,
    ) -> None:
        self._broker = broker
        self._sessions = sessions
        self._telemetry = telemetry
        self._advertiser = Advertiser(advertise)
        self._producing = Producing(broker, limits, clock, rates)
        self._consuming = Consuming(broker, sessions, limits, clock, filters, rates)
        self._pulling = Pulling(broker, limits, clock, filters, rates)
        self._lite = LiteSyncing(broker, sessions, limits)

    def listens_on(self, host: str, port: int) -> None:
        """Told once the port is known: what a route answers when nobody else says how to reach us."""
        self._advertiser.listens_on(host, port)

    def rows(self) -> list[Row]:
        """The 17 methods, and the sink for the metrics that old Python clients are asked for."""
        return [
            *self._route_rows(),
            *self._message_rows(),
            *self._offset_rows(),
            *self._client_rows(),
            METRIC_SINK,
        ]

    def _route_rows(self) -> list[Row]:
        route = self._unary(v2.QueryRouteRequest.FromString, self._route, ROUTE_FAILED)
        assignment = self._unary(v2.QueryAssignmentRequest.FromString, self._assignment, ASSIGNMENT_FAILED)
        return [
            _row("QueryRoute", route, "Pub|Sub", "route"),
            _row("QueryAssignment", assignment, "Sub", "route"),
        ]

    def _message_rows(self) -> list[Row]:
        consuming = self._consuming
        send = self._unary(v2.SendMessageRequest.FromString, self._producing.send, SEND_FAILED)
        recall = self._unary(v2.RecallMessageRequest.FromString, self._producing.recall, RECALL_FAILED)
        receive = self._listing(v2.ReceiveMessageRequest.FromString, consuming.receive, consuming.receive_failed)
        end = self._unary(v2.EndTransactionRequest.FromString, self._producing.end_transaction, END_FAILED)
        ack = self._unary(v2.AckMessageRequest.FromString, consuming.ack, ACK_FAILED)
        change = self._unary(v2.ChangeInvisibleDurationRequest.FromString, consuming.change_invisible, CHANGE_FAILED)
        dead_letter = self._unary(
            v2.ForwardMessageToDeadLetterQueueRequest.FromString, consuming.dead_letter, DEAD_LETTER_FAILED
        )
        return [
            _row("SendMessage", send, "Pub", "producer"),
            _row("RecallMessage", recall, "Pub", "producer"),
            _row("EndTransaction", end, "Pub", "transaction"),
            Row(SERVICE + "ReceiveMessage", Kind.LIST, receive, "Sub", "consumer"),
            _row("AckMessage", ack, "Sub", "consumer"),
            _row("ChangeInvisibleDuration", change, "Sub", "consumer"),
            _row("ForwardMessageToDeadLetterQueue", dead_letter, "Sub", "consumer"),
        ]

    def _offset_rows(self) -> list[Row]:
        pulling = self._pulling
        pull = self._listing(v2.PullMessageRequest.FromString, pulling.pull, pull_failed)
        update = self._unary(v2.UpdateOffsetRequest.FromString, pulling.update, UPDATE_FAILED)
        get = self._unary(v2.GetOffsetRequest.FromString, pulling.get, GET_FAILED)
        query = self._unary(v2.QueryOffsetRequest.FromString, pulling.query, QUERY_FAILED)
        return [
            Row(SERVICE + "PullMessage", Kind.LIST, pull, "Sub", "consumer"),
            _row("UpdateOffset", update, "Sub", "consumer"),
            _row("GetOffset", get, "Sub", "consumer"),
            _row("QueryOffset", query, "Sub", "consumer"),
        ]

    def _client_rows(self) -> list[Row]:
        termination = self._unary(v2.NotifyClientTerminationRequest.FromString, self._termination, TERMINATION_FAILED)
        heartbeat = self._unary(v2.HeartbeatRequest.FromString, self._heartbeat, HEARTBEAT_FAILED)
        sync = self._unary(v2.SyncLiteSubscriptionRequest.FromString, self._lite.sync, SYNC_FAILED)
        return [
            _row("SyncLiteSubscription", sync, "Sub", "client"),
            _row("Heartbeat", heartbeat, "Sub", "client"),
            _row("NotifyClientTermination", termination, "Sub", "client"),
            Row(SERVICE + "Telemetry", Kind.STREAM, self._telemetry.open, "Pub|Sub", "open"),
        ]

    def _unary(
        self,
        decode: Callable[[bytes], Request],
        method: Callable[[Caller, Request], Answer[bytes]],
        failed: Failed,
    ) -> Unary:
        sessions = self._sessions

        def handle(call: Call, data: bytes) -> Answer[bytes]:
            request = parse(decode, data)
            try:
                return method(Caller(call, sessions), request)
            except Exception as error:  # ours or the client's: `failed` tells them apart, and logs ours
                call.code = code_of(error)
                return failed(error)

        return handle

    def _listing(
        self,
        decode: Callable[[bytes], Request],
        method: Callable[[Caller, Request], Answer[Sequence[bytes]]],
        failed: Callable[[Call, Exception], Sequence[bytes]],
    ) -> Listing:
        sessions = self._sessions

        def handle(call: Call, data: bytes) -> Answer[Sequence[bytes]]:
            request = parse(decode, data)
            try:
                return method(Caller(call, sessions), request)
            except Exception as error:  # as in _unary
                return failed(call, error)

        return handle

    def _route(self, caller: Caller, request: v2.QueryRouteRequest) -> Answer[bytes]:
        topic = caller.topic(request.topic)
        endpoints = self._advertiser.choose(request.endpoints, caller.call)

        def encode(brokers: Sequence[BrokerQueues]) -> bytes:
            response = v2.QueryRouteResponse()
            write_ok(response.status)
            for broker in brokers:
                accepts = [kind.value for kind in known(broker.accepts, caller.call)]
                for queue_id, permission in enumerate(permissions(broker)):
                    queue = response.message_queues.add()
                    _fill_queue(queue, request.topic, endpoints, broker.broker, queue_id, permission)
                    queue.accept_message_types.extend(accepts)
            return response.SerializeToString()

        return then(self._broker.route(topic), encode, ROUTE_FAILED)

    def _assignment(self, caller: Caller, request: v2.QueryAssignmentRequest) -> Answer[bytes]:
        topic = caller.topic(request.topic)
        group = caller.group(request.group)
        endpoints = self._advertiser.choose(request.endpoints, caller.call)

        def with_view(view: GroupView) -> Answer[bytes]:
            brokers = self._broker.assignment(group, topic)
            return then(
                brokers, lambda found: _encode_assignment(request, endpoints, found, fifo=view.fifo), ASSIGNMENT_FAILED
            )

        return then(self._broker.group(group, [topic]), with_view, ASSIGNMENT_FAILED)

    def _heartbeat(self, caller: Caller, request: v2.HeartbeatRequest) -> Answer[bytes]:
        """Settings that are not here are no reason to refuse: after a restart every client is like that."""
        if caller.client is None and request.client_type not in CLIENT_TYPES:
            text = "cannot find client settings for this client, and client_type says nothing; set it"
            raise ClientError(Code.UNRECOGNIZED_CLIENT_TYPE, text)
        if request.client_type in (v2.PRODUCER, v2.CLIENT_TYPE_UNSPECIFIED) or not request.HasField("group"):
            return HEARTBEAT_OK
        known = self._sessions.lives(caller.client_id, caller.group(request.group))
        return then(known, lambda _: HEARTBEAT_OK, HEARTBEAT_FAILED)

    def _termination(self, caller: Caller, request: v2.NotifyClientTerminationRequest) -> Answer[bytes]:
        """The group may be absent, or empty (Go's producers), and the client unknown: it is gone either way."""
        group = caller.group(request.group) if request.group.name else ""
        self._sessions.terminate(caller.client_id, group)
        return TERMINATION_OK


def permissions(broker: BrokerQueues) -> Sequence[int]:
    """By queue id: read-only ones first, then write-only, then both (facts: grpc.md 6.1)."""
    read, write = broker.read_queues, broker.write_queues
    if broker.readable and broker.writable:
        both = min(read, write)
        return [v2.READ] * (read - both) + [v2.WRITE] * (write - both) + [v2.READ_WRITE] * both
    if broker.readable:
        return [v2.READ] * read
    if broker.writable:
        return [v2.WRITE] * write
    return [v2.NONE] * max(read, write)


def _encode_assignment(
    request: v2.QueryAssignmentRequest, endpoints: v2.Endpoints, brokers: Sequence[BrokerQueues], *, fifo: bool
) -> bytes:
    """Every consumer is told all queues: one of id -1 per broker, or each where the group is FIFO (facts: grpc.md
    1.4).
    """
    response = v2.QueryAssignmentResponse()
    write_ok(response.status)
    for broker in brokers:
        if not broker.readable or broker.read_queues < 1:
            continue
        permission = v2.READ_WRITE if broker.writable else v2.READ
        for queue_id in range(broker.read_queues) if fifo else (-1,):
            queue = response.assignments.add().message_queue
            _fill_queue(queue, request.topic, endpoints, broker.broker, queue_id, permission)
    if not response.assignments:
        raise ClientError(Code.FORBIDDEN, f"no readable queue of topic {request.topic.name}")
    return response.SerializeToString()


def _fill_queue(
    queue: v2.MessageQueue, topic: v2.Resource, endpoints: v2.Endpoints, broker: str, queue_id: int, permission: int
) -> None:
    """`topic` is the client's own Resource: what it sent is echoed. SDKs use brokers of id 0 only."""
    queue.topic.CopyFrom(topic)
    queue.id = queue_id
    queue.permission = permission
    queue.broker.name = broker
    queue.broker.id = 0
    queue.broker.endpoints.CopyFrom(endpoints)


def _row(method: str, handler: Unary, action: str, limit: str) -> Row:
    return Row(SERVICE + method, Kind.UNARY, handler, action, limit)
