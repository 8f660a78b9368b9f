"""Requests as a client sends them, built by hand: no SDK stands between a test and the server.

Durations are milliseconds. Nothing here checks anything: a test changes what it gets and sends that.
"""

from collections.abc import Iterable

from rmq_proto import v2

SERVICE = "/apache.rocketmq.v2.MessagingService/"
CLIENT_ID = "raw@1@0@test"
METADATA = (("x-mq-client-id", CLIENT_ID), ("x-mq-client-version", "5.1.2"), ("x-mq-language", "PYTHON"))


def message(topic: str, body: bytes = b"hello", message_id: str = "id-1") -> v2.Message:
    """A message that nothing is wrong with."""
    made = v2.Message()
    made.topic.name = topic
    made.body = body
    made.system_properties.message_id = message_id
    return made


def send(*messages: v2.Message) -> v2.SendMessageRequest:
    """All of them in one call."""
    request = v2.SendMessageRequest()
    request.messages.extend(messages)
    return request


def end(topic: str, transaction_id: str, *, commit: bool) -> bytes:
    """Of one transaction, encoded."""
    request = v2.EndTransactionRequest()
    request.topic.name = topic
    request.transaction_id = transaction_id
    request.resolution = v2.COMMIT if commit else v2.ROLLBACK
    return request.SerializeToString()


def receive(
    topic: str, group: str, *, batch: int = 32, invisible_ms: int = 30_000, poll_ms: int = 0
) -> v2.ReceiveMessageRequest:
    """A pop by a simple consumer."""
    request = v2.ReceiveMessageRequest()
    request.group.name = group
    request.message_queue.topic.name = topic
    request.batch_size = batch
    set_ms(request.invisible_duration, invisible_ms)
    set_ms(request.long_polling_timeout, poll_ms)
    return request


def ack(topic: str, group: str, handles: Iterable[str]) -> v2.AckMessageRequest:
    """One entry a handle."""
    request = v2.AckMessageRequest()
    request.topic.name = topic
    request.group.name = group
    for handle in handles:
        request.entries.add().receipt_handle = handle
    return request


def change(topic: str, group: str, handle: str, invisible_ms: int = 30_000) -> v2.ChangeInvisibleDurationRequest:
    """Of one message."""
    request = v2.ChangeInvisibleDurationRequest()
    request.topic.name = topic
    request.group.name = group
    request.receipt_handle = handle
    set_ms(request.invisible_duration, invisible_ms)
    return request


def dead_letter(topic: str, group: str, handle: str) -> v2.ForwardMessageToDeadLetterQueueRequest:
    """Of one message."""
    request = v2.ForwardMessageToDeadLetterQueueRequest()
    request.topic.name = topic
    request.group.name = group
    request.receipt_handle = handle
    return request


def route(topic: str) -> v2.QueryRouteRequest:
    """With the endpoint that the client used."""
    request = v2.QueryRouteRequest()
    request.topic.name = topic
    request.endpoints.scheme = v2.IPv4
    address = request.endpoints.addresses.add()
    address.host, address.port = "127.0.0.1", 1
    return request


def get_ms(stamp: v2.Timestamp) -> int:
    """0 where it is not given."""
    return stamp.seconds * 1000 + stamp.nanos // 1_000_000


def set_ms(duration: v2.Duration | v2.Timestamp, ms: int) -> None:
    """`duration` counts as given, even when it is 0."""
    duration.seconds, rest_ms = divmod(ms, 1000)
    duration.nanos = rest_ms * 1_000_000
