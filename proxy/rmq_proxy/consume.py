"""The consumers' calls: receive, acknowledge, change the invisible time, move to the dead letter topic.

A receive answers `status`, messages, `delivery_timestamp`; an empty or failed one `status`, `delivery_timestamp`, never
an empty stream. Messages whose answer did not reach the client are given back at once, and their delivery does not
count.
"""

import logging
import sys
from collections.abc import Sequence

from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq.filter import ALL, Filter, Filters
from rmq.message import Delivered
from rmq.port import Answer, BrokerPort, ReceiveRequest
from rmq_proto import v2
from rmq_proxy import validate
from rmq_proxy.answers import ignore, then
from rmq_proxy.caller import LANGUAGE, Caller
from rmq_proxy.convert import deliver, set_ms, split_namespace, to_ms
from rmq_proxy.polling import Polling
from rmq_proxy.rates import Rates
from rmq_proxy.rpc import Call
from rmq_proxy.sessions import Sessions
from rmq_proxy.settings import LITE_TYPES
from rmq_proxy.status import Failed, explain, plain, write, write_ok
from rmq_proxy.validate import Limits

log = logging.getLogger(__name__)

ACK_FAILED = Failed(v2.AckMessageResponse)
CHANGE_FAILED = Failed(v2.ChangeInvisibleDurationResponse)
DEAD_LETTER_FAILED = Failed(v2.ForwardMessageToDeadLetterQueueResponse)
RECEIVE_OK = plain(v2.ReceiveMessageResponse)
RECEIVE_EMPTY = plain(v2.ReceiveMessageResponse, Code.MESSAGE_NOT_FOUND, "no new message")
DEAD_LETTER_OK = plain(v2.ForwardMessageToDeadLetterQueueResponse)
GO = "GO"


class Receiving:
    """One receive while it waits: there may be 100,000, so it holds no more than its answer takes.

    `namespace` and `name` are the topic's as the client wrote them.
    """

    __slots__ = ("_call", "_consuming", "_name", "_namespace", "_wanted")

    def __init__(self, consuming: "Consuming", call: Call, wanted: ReceiveRequest, namespace: str, name: str) -> None:
        self._consuming = consuming
        self._call = call
        self._wanted = wanted
        self._namespace = namespace
        self._name = name

    def poll(self, _: None) -> Answer[Sequence[bytes]]:
        """Once the broker knows the client."""
        consuming = self._consuming
        return then(consuming.broker.receive(self._wanted), self._answer, self.failed, self._give_back)

    def failed(self, error: Exception) -> Sequence[bytes]:
        """It went wrong, at whatever step."""
        return self._consuming.receive_failed(self._call, error)

    def _answer(self, messages: Sequence[Delivered]) -> Sequence[bytes]:
        if messages:
            self._call.undelivered = lambda: self._give_back(messages)
        else:
            self._call.code = Code.MESSAGE_NOT_FOUND
        return self._consuming.encode(messages, self._wanted.topic, self._namespace, self._name)

    def _give_back(self, messages: Sequence[Delivered]) -> None:
        self._consuming.give_back(self._wanted, messages)


class Consuming:
    """The consumers' calls."""

    def __init__(
        self, broker: BrokerPort, sessions: Sessions, limits: Limits, clock: Clock, filters: Filters, rates: Rates
    ) -> None:
        self.broker = broker
        self._sessions = sessions
        self._limits = limits
        self._polling = Polling(limits, clock)
        self._clock = clock
        self._filters = filters
        self._rates = rates

    def receive(self, caller: Caller, request: v2.ReceiveMessageRequest) -> Answer[Sequence[bytes]]:
        """Whatever queue the request names, the pop runs over all of the topic's (facts: grpc.md 1.5)."""
        wanted = self._wanted(caller, request)
        self._rates.receive(caller.client_id, wanted.topic)
        namespace = caller.namespace(request.message_queue.topic)
        receiving = Receiving(self, caller.call, wanted, namespace, sys.intern(request.message_queue.topic.name))
        known = self._sessions.consumes(caller.client_id, wanted.group, wanted.topic, wanted.filter)
        return then(known, receiving.poll, receiving.failed)

    def _wanted(self, caller: Caller, request: v2.ReceiveMessageRequest) -> ReceiveRequest:
        topic = sys.intern(caller.topic(request.message_queue.topic))  # once for all polls that wait
        group = sys.intern(caller.group(request.group))
        wanted = filter_of(request, self._filters)
        batch = validate.batch(request.batch_size, self._limits)
        auto_renew = request.auto_renew
        invisible_ms = self._limits.auto_renew_ms
        if not auto_renew:
            invisible_ms = to_ms(request.invisible_duration)
            validate.receive_invisible_ms(invisible_ms, self._limits)
        poll_ms = self._polling.receive_ms(caller, request)
        return ReceiveRequest(
            group, topic, caller.client_id, wanted, batch, invisible_ms, poll_ms, auto_renew, request.attempt_id,
            fifo=_in_order(caller), lite=_is_lite(caller),
        )  # fmt: skip

    def encode(self, messages: Sequence[Delivered], topic: str, namespace: str, name: str) -> Sequence[bytes]:
        """The stream of a receive."""
        out = [RECEIVE_OK if messages else RECEIVE_EMPTY]
        for message in messages:
            response = v2.ReceiveMessageResponse()
            if message.topic == topic:
                deliver(response.message, message, namespace, name)
            else:
                deliver(response.message, message, *split_namespace(namespace, message.topic))
            out.append(response.SerializeToString())
        out.append(self._now())
        return out

    def _now(self) -> bytes:
        response = v2.ReceiveMessageResponse()
        set_ms(response.delivery_timestamp, self._clock.wall_ms())
        return response.SerializeToString()

    def receive_failed(self, call: Call, error: Exception) -> Sequence[bytes]:
        """The stream of a receive that went wrong."""
        told = explain(error)
        call.code = told.code
        return [plain(v2.ReceiveMessageResponse, told.code, told.text), self._now()]

    def give_back(self, wanted: ReceiveRequest, messages: Sequence[Delivered]) -> None:
        """Visible at once, and the delivery does not count: nobody received them."""
        for message in messages:
            try:
                answer = self.broker.change_invisible(wanted.group, wanted.topic, message.handle, 0, suspend=True)
            except ClientError as error:  # the lease is over already: that is what we wanted
                log.debug("giving back %s: %s", message.handle, error)
            else:
                ignore(answer, "giving back a message whose receiver is gone")

    def ack(self, caller: Caller, request: v2.AckMessageRequest) -> Answer[bytes]:
        """One entry per handle, in order; the overall status is theirs, or MULTIPLE_RESULTS where they differ."""
        topic = caller.topic(request.topic)
        group = caller.group(request.group)
        handles = [entry.receipt_handle for entry in request.entries]
        if not handles:
            raise ClientError(Code.BAD_REQUEST, "ack message result is empty; name at least one receipt handle")
        return then(self.broker.ack(group, topic, handles), lambda outcomes: _encode_ack(request, outcomes), ACK_FAILED)

    def change_invisible(self, caller: Caller, request: v2.ChangeInvisibleDurationRequest) -> Answer[bytes]:
        """Answers the new handle; the old one is dead from here on."""
        topic = caller.topic(request.topic)
        group = caller.group(request.group)
        invisible_ms = to_ms(request.invisible_duration)
        validate.change_invisible_ms(invisible_ms, self._limits)
        answer = self.broker.change_invisible(
            group, topic, request.receipt_handle, invisible_ms, suspend=request.suspend
        )
        return then(answer, _encode_change, CHANGE_FAILED)

    def dead_letter(self, caller: Caller, request: v2.ForwardMessageToDeadLetterQueueRequest) -> Answer[bytes]:
        """The request's own attempt counts are not used, as in Apache: the lease knows better."""
        topic = caller.topic(request.topic)
        group = caller.group(request.group)
        answer = self.broker.dead_letter(group, topic, request.receipt_handle)
        return then(answer, lambda _: DEAD_LETTER_OK, DEAD_LETTER_FAILED)


def filter_of(request: v2.ReceiveMessageRequest | v2.PullMessageRequest, filters: Filters) -> Filter:
    """All messages where it names none. Raises ILLEGAL_FILTER_EXPRESSION."""
    if not request.HasField("filter_expression"):
        return ALL
    expression = request.filter_expression
    return validate.filter_expression(expression.type, expression.expression, filters)


def _in_order(caller: Caller) -> bool:
    """It consumes several messages of a message group in order, if it gets them together. One that outlived a start of
    the server may have been told otherwise at its own; Go's (5.1.4) goes on with the next while it retries one.
    """
    client = caller.client
    told = client is not None and client.begun and client.told_fifo is True
    return told and caller.call.header(LANGUAGE).upper() != GO


def _is_lite(caller: Caller) -> bool:
    """By its settings. Of one whose settings are not here any more the broker knows what it subscribes."""
    settings = caller.client.settings if caller.client is not None else None
    return settings is not None and settings.client_type in LITE_TYPES


def _encode_ack(request: v2.AckMessageRequest, outcomes: Sequence[ClientError | None]) -> bytes:
    response = v2.AckMessageResponse()
    for asked, outcome in zip(request.entries, outcomes, strict=True):
        entry = response.entries.add()
        entry.message_id = asked.message_id
        entry.receipt_handle = asked.receipt_handle
        if outcome is None:
            write_ok(entry.status)
        else:
            write(entry.status, outcome)
    codes = {None if outcome is None else outcome.code for outcome in outcomes}
    if len(codes) > 1:
        write(response.status, ClientError(Code.MULTIPLE_RESULTS, "the entries differ; look at each"))
    else:
        response.status.CopyFrom(response.entries[0].status)
    return response.SerializeToString()


def _encode_change(handle: str) -> bytes:
    response = v2.ChangeInvisibleDurationResponse()
    write_ok(response.status)
    response.receipt_handle = handle
    return response.SerializeToString()
