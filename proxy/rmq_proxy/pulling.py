"""The calls of consumers that keep offsets themselves: pull, and the offsets of groups and queues.

A pull answers `status`, messages, `next_offset`: where to pull next. An empty one does so too, for a filter may have
passed something over, and one from an offset that the queue does not have, with the nearest that it has. What else goes
wrong is a status alone. A pulled message has no receipt handle: nothing was leased, there is nothing to ack.
"""

import sys
from collections.abc import Sequence
from functools import partial

from rmq.clock import Clock
from rmq.errors import ClientError, Code, OffsetError
from rmq.filter import Filters
from rmq.port import Answer, BrokerPort, Pulled, PullRequest
from rmq_proto import v2
from rmq_proxy import validate
from rmq_proxy.answers import then
from rmq_proxy.caller import Caller
from rmq_proxy.consume import filter_of
from rmq_proxy.convert import deliver, to_ms
from rmq_proxy.polling import Polling
from rmq_proxy.rates import Rates
from rmq_proxy.rpc import Call
from rmq_proxy.status import Failed, explain, plain, write_ok
from rmq_proxy.validate import Limits

UPDATE_FAILED = Failed(v2.UpdateOffsetResponse)
UPDATE_OK = plain(v2.UpdateOffsetResponse)
GET_FAILED = Failed(v2.GetOffsetResponse)
QUERY_FAILED = Failed(v2.QueryOffsetResponse)
PULL_OK = plain(v2.PullMessageResponse)
PULL_EMPTY = plain(v2.PullMessageResponse, Code.MESSAGE_NOT_FOUND, "no new message")


class Pulling:
    """The four calls."""

    def __init__(self, broker: BrokerPort, limits: Limits, clock: Clock, filters: Filters, rates: Rates) -> None:
        self._broker = broker
        self._limits = limits
        self._polling = Polling(limits, clock)
        self._filters = filters
        self._rates = rates

    def pull(self, caller: Caller, request: v2.PullMessageRequest) -> Answer[Sequence[bytes]]:
        """Of the one queue that it names. Counts as a receive among the rate limits."""
        resource = request.message_queue.topic
        wanted = PullRequest(
            sys.intern(caller.group(request.group)),  # once for all polls that wait
            sys.intern(caller.topic(resource)),
            request.message_queue.id,
            request.offset,
            filter_of(request, self._filters),
            validate.batch(request.batch_size, self._limits),
            self._polling.pull_ms(caller, request),
        )
        self._rates.receive(caller.client_id, wanted.topic)
        call, namespace, name = caller.call, caller.namespace(resource), sys.intern(resource.name)
        encode = partial(_encode_pull, call, namespace, name)
        return then(self._broker.pull(wanted), encode, partial(pull_failed, call), _nothing_to_give_back)

    def update(self, caller: Caller, request: v2.UpdateOffsetRequest) -> Answer[bytes]:
        """Answered when it is safe."""
        queue = request.message_queue
        topic, group = caller.topic(queue.topic), caller.group(request.group)
        answer = self._broker.update_offset(group, topic, queue.id, request.offset)
        return then(answer, lambda _: UPDATE_OK, UPDATE_FAILED)

    def get(self, caller: Caller, request: v2.GetOffsetRequest) -> Answer[bytes]:
        """The group's own."""
        queue = request.message_queue
        topic, group = caller.topic(queue.topic), caller.group(request.group)
        return then(self._broker.committed_offset(group, topic, queue.id), _encode_get, GET_FAILED)

    def query(self, caller: Caller, request: v2.QueryOffsetRequest) -> Answer[bytes]:
        """The queue's begin or end, or the offset of a time."""
        queue, policy = request.message_queue, request.query_offset_policy
        topic = caller.topic(queue.topic)
        time_ms = None
        if policy == v2.TIMESTAMP:
            if not request.HasField("timestamp"):
                raise ClientError(Code.BAD_REQUEST, "the policy is TIMESTAMP: set timestamp")
            time_ms = to_ms(request.timestamp)
        elif policy not in (v2.BEGINNING, v2.END):
            raise ClientError(Code.BAD_REQUEST, f"unknown offset policy {policy}; use BEGINNING, END or TIMESTAMP")
        answer = self._broker.query_offset(topic, queue.id, end=policy == v2.END, time_ms=time_ms)
        return then(answer, _encode_query, QUERY_FAILED)


def pull_failed(call: Call, error: Exception) -> Sequence[bytes]:
    """The stream of a pull that went wrong, at whatever step."""
    told = explain(error)
    call.code = told.code
    status = plain(v2.PullMessageResponse, told.code, told.text)
    return [status, _next(error.nearest)] if isinstance(error, OffsetError) else [status]


def _encode_pull(call: Call, namespace: str, name: str, pulled: Pulled) -> Sequence[bytes]:
    if not pulled.messages:
        call.code = Code.MESSAGE_NOT_FOUND
    out = [PULL_OK if pulled.messages else PULL_EMPTY]
    for message in pulled.messages:
        response = v2.PullMessageResponse()
        deliver(response.message, message, namespace, name)
        out.append(response.SerializeToString())
    out.append(_next(pulled.next_offset))
    return out


def _next(offset: int) -> bytes:
    response = v2.PullMessageResponse()
    response.next_offset = offset
    return response.SerializeToString()


def _nothing_to_give_back(_: Pulled) -> None:
    """Whoever left leaves the poll; what it found is with nobody."""


def _encode_get(offset: int) -> bytes:
    response = v2.GetOffsetResponse()
    write_ok(response.status)
    response.offset = offset
    return response.SerializeToString()


def _encode_query(offset: int) -> bytes:
    response = v2.QueryOffsetResponse()
    write_ok(response.status)
    response.offset = offset
    return response.SerializeToString()
