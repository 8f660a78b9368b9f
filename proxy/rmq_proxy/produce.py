"""SendMessage: checks, converts and stores a batch of one topic's messages; one entry per message, in request order.
RecallMessage: takes a delayed one back. EndTransaction: commits a half one, or rolls it back.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq.message import Outgoing, SendResult
from rmq.port import Answer, BrokerPort
from rmq_proto import v2
from rmq_proxy.answers import then
from rmq_proxy.caller import Caller
from rmq_proxy.convert import born_at, outgoing
from rmq_proxy.rates import Rates
from rmq_proxy.status import Failed, plain, write_ok
from rmq_proxy.validate import Limits
from rmq_proxy.wire import BYTES, VARINT, key, varint

FAILED = Failed(v2.SendMessageResponse)
RECALL_FAILED = Failed(v2.RecallMessageResponse)
END_FAILED = Failed(v2.EndTransactionResponse)
END_OK = plain(v2.EndTransactionResponse)
_RESOLUTIONS: Mapping[int, bool | None] = {
    v2.TRANSACTION_RESOLUTION_UNSPECIFIED: None, v2.COMMIT: True, v2.ROLLBACK: False
}  # fmt: skip


class Producing:
    """The producers' calls."""

    def __init__(self, broker: BrokerPort, limits: Limits, clock: Clock, rates: Rates) -> None:
        self._broker = broker
        self._limits = limits
        self._clock = clock
        self._rates = rates

    def send(self, caller: Caller, request: v2.SendMessageRequest) -> Answer[bytes]:
        """A request that fails as a whole has a status and no entries; the broker stores all messages or none."""
        messages = request.messages
        if not messages:
            raise ClientError(Code.MESSAGE_CORRUPTED, "no message to send")
        resource = messages[0].topic
        topic = caller.topic(resource)
        self._rates.send(caller.client_id, topic, len(messages))
        now_ms, born, limits = self._clock.wall_ms(), born_at(caller.call.peer), self._limits
        batch: list[Outgoing] = []
        for message in messages:
            if batch and message.topic != resource and caller.topic(message.topic) != topic:
                raise ClientError(Code.MESSAGE_CORRUPTED, "topic in message is not same; send one topic per request")
            batch.append(outgoing(message, topic, born, limits, now_ms))
        return then(self._broker.send(batch), partial(encode, [one.message_id for one in batch]), FAILED)

    def recall(self, caller: Caller, request: v2.RecallMessageRequest) -> Answer[bytes]:
        """The answer names the message that will not be delivered."""
        topic = caller.topic(request.topic)

        def encode_recalled(message_id: str) -> bytes:
            response = v2.RecallMessageResponse(message_id=message_id)
            write_ok(response.status)
            return response.SerializeToString()

        return then(self._broker.recall(topic, request.recall_handle), encode_recalled, RECALL_FAILED)

    def end_transaction(self, caller: Caller, request: v2.EndTransactionRequest) -> Answer[bytes]:
        """Who it comes from, the producer itself or its answer to a check, makes no difference."""
        topic = caller.topic(request.topic)
        if request.resolution not in _RESOLUTIONS:
            raise ClientError(Code.BAD_REQUEST, f"resolution {request.resolution} is none: send COMMIT or ROLLBACK")
        ended = self._broker.end_transaction(topic, request.transaction_id, _RESOLUTIONS[request.resolution])
        return then(ended, lambda _: END_OK, END_FAILED)


def encode(ids: Sequence[str], results: Sequence[SendResult]) -> bytes:
    """A SendMessageResponse; fields of an entry that are 0 or empty are not written."""
    pieces, length, before, between = [_OK], -1, b"", b""
    for message_id, result in zip(ids, results, strict=True):
        name = message_id.encode()
        if len(name) != length:  # those of one client are all of one length
            length = len(name)
            before = b"%b%b%b" % (_OK, _MESSAGE_ID, varint(length))
            between = _TRANSACTION_ID + varint(length)
        if result.transaction_id:
            own = result.transaction_id.encode()
            entry = b"%b%b%b%b%b" % (before, name, _TRANSACTION_ID, varint(len(own)), own)
        else:
            entry = b"%b%b%b%b" % (before, name, between, name)
        if result.queue_offset:
            entry += _OFFSET + varint(result.queue_offset)
        if result.recall_handle:
            handle = result.recall_handle.encode()
            entry += _RECALL_HANDLE + varint(len(handle)) + handle
        pieces += (_ENTRY, varint(len(entry)), entry)
    return b"".join(pieces)


def _field(response: type[v2.SendMessageResponse] | type[v2.SendResultEntry], name: str, wire_type: int) -> bytes:
    return key(response.DESCRIPTOR.fields_by_name[name].number, wire_type)


def _ok() -> bytes:
    """Field `status`, which has the same number in the response and in an entry."""
    answer = v2.SendMessageResponse()
    write_ok(answer.status)
    return answer.SerializeToString()


_OK = _ok()
_ENTRY = _field(v2.SendMessageResponse, "entries", BYTES)
_MESSAGE_ID = _field(v2.SendResultEntry, "message_id", BYTES)
_TRANSACTION_ID = _field(v2.SendResultEntry, "transaction_id", BYTES)  # Apache fills it for every type
_OFFSET = _field(v2.SendResultEntry, "offset", VARINT)
_RECALL_HANDLE = _field(v2.SendResultEntry, "recall_handle", BYTES)
