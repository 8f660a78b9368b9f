"""SendMessage: checks, converts and stores a batch of one topic's messages; one entry per message, in request order."""

from collections.abc import Sequence

from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq.message import Outgoing, SendResult
from rmq.port import Answer, BrokerPort
from rmq_proto import v2
from rmq_proxy.answers import then
from rmq_proxy.caller import Caller
from rmq_proxy.convert import outgoing
from rmq_proxy.rates import Rates
from rmq_proxy.status import OK, OK_TEXT, Failed
from rmq_proxy.validate import Limits

FAILED = Failed(v2.SendMessageResponse)


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
        topic = caller.topic(messages[0].topic)
        self._rates.send(caller.client_id, topic, len(messages))
        now_ms, peer = self._clock.wall_ms(), caller.call.peer
        batch: list[Outgoing] = []
        for message in messages:
            if batch and caller.topic(message.topic) != topic:
                raise ClientError(Code.MESSAGE_CORRUPTED, "topic in message is not same; send one topic per request")
            batch.append(outgoing(message, topic, peer, self._limits, now_ms))
        return then(self._broker.send(batch), lambda results: _encode(request, results), FAILED)


def _encode(request: v2.SendMessageRequest, results: Sequence[SendResult]) -> bytes:
    response = v2.SendMessageResponse()
    status = response.status
    status.code = OK
    status.message = OK_TEXT
    for message, result in zip(request.messages, results, strict=True):
        message_id = message.system_properties.message_id
        entry = response.entries.add()
        status = entry.status
        status.code = OK
        status.message = OK_TEXT
        entry.message_id = message_id
        entry.transaction_id = message_id  # Apache fills it for every type
        entry.offset = result.queue_offset
        if result.recall_handle:
            entry.recall_handle = result.recall_handle
    return response.SerializeToString()
