"""Translates between a gRPC Message and stored properties, both ways (facts: grpc.md 5.2-5.5).

Body and encoding flag stay as they came: nothing is compressed, decompressed or re-encoded here. Fields are set one by
one, which costs half of what constructors cost.
"""

import functools
from hashlib import md5

from rmq.config import parse_endpoint
from rmq.message import (
    BORN_HOST,
    BORN_TIMESTAMP,
    CHECK_IMMUNITY_TIME_IN_SECONDS,
    DLQ_ORIGIN_MESSAGE_ID,
    DLQ_ORIGIN_TOPIC,
    DLQ_PREFIX,
    KEYS,
    LITE_TOPIC,
    PGROUP,
    PRIORITY,
    RETRY_PREFIX,
    SHARDING_KEY,
    SYS_FLAG_COMPRESSED,
    TAGS,
    TIMER_DELIVER_MS,
    TRACE_CONTEXT,
    TRAN_MSG,
    UNIQ_KEY,
    Delivered,
    Outgoing,
    type_of,
)
from rmq_proto import v2
from rmq_proxy import validate
from rmq_proxy.validate import RESERVED, Limits

RECONSUME_TIME = "RECONSUME_TIME"
NUMBER_DIGITS_MAX = 15  # enough for any time in ms; a property that came over Remoting may hold anything


def outgoing(message: v2.Message, topic: str, peer: str, limits: Limits, now_ms: int) -> Outgoing:
    """One message of a SendMessageRequest, checked in Apache's order. `topic` is the stored name.

    Raises ClientError as facts grpc.md 1.3 step 2 lists them.
    """
    body = message.body
    validate.body(body, limits)
    properties = dict(message.user_properties.items())
    system = message.system_properties
    _label(properties, system, limits)
    _schedule(properties, system, topic, limits, now_ms)
    _extend(properties, system, limits)
    born_ms = _born_ms(system, now_ms)
    _trace(properties, system, born_ms)
    validate.stored_size(properties, limits)
    host, port = born_at(peer)
    sys_flag = SYS_FLAG_COMPRESSED if system.body_encoding == v2.GZIP else 0
    return Outgoing(topic, body, properties, born_ms, host, port, sys_flag)


def _label(properties: dict[str, str], system: v2.SystemProperties, limits: Limits) -> None:
    """The user's properties are checked; tag, keys and id join them."""
    tag, keys, message_id = system.tag, system.keys, system.message_id
    validate.user_properties(properties, limits)
    validate.tag(tag)
    validate.keys(keys)
    validate.properties_size(properties, tag, keys, limits)
    validate.message_id(message_id)
    properties[UNIQ_KEY] = message_id
    if tag:
        properties[TAGS] = tag
    if joined := " ".join(filter(None, keys)):
        properties[KEYS] = joined


def _schedule(properties: dict[str, str], system: v2.SystemProperties, topic: str, limits: Limits, now_ms: int) -> None:
    if system.message_type == v2.TRANSACTION:
        properties[TRAN_MSG] = "true"
        properties[PGROUP] = topic
        if system.HasField("orphaned_transaction_recovery_duration"):
            seconds = system.orphaned_transaction_recovery_duration.seconds
            validate.recovery_s(seconds, limits)
            properties[CHECK_IMMUNITY_TIME_IN_SECONDS] = str(seconds)
    if system.HasField("delivery_timestamp"):
        due_ms = to_ms(system.delivery_timestamp)
        validate.delivery_ms(due_ms, now_ms, limits)
        properties[TIMER_DELIVER_MS] = str(due_ms)
    if group := system.message_group:
        validate.message_group(group, limits)
        properties[SHARDING_KEY] = group


def _extend(properties: dict[str, str], system: v2.SystemProperties, limits: Limits) -> None:
    if system.HasField("lite_topic"):
        validate.lite_topic(system.lite_topic, limits)
        properties[LITE_TOPIC] = system.lite_topic
    if system.HasField("priority"):
        validate.priority(system.priority)
        properties[PRIORITY] = str(system.priority)
    if system.delivery_attempt > 0:
        properties[RECONSUME_TIME] = str(system.delivery_attempt)


def _born_ms(system: v2.SystemProperties, now_ms: int) -> int:
    if not system.HasField("born_timestamp"):
        return now_ms
    validate.born_s(system.born_timestamp.seconds)
    return to_ms(system.born_timestamp)


def _trace(properties: dict[str, str], system: v2.SystemProperties, born_ms: int) -> None:
    properties[BORN_TIMESTAMP] = str(born_ms)
    host = system.born_host
    if host and not validate.has_control(host):
        properties[BORN_HOST] = host
    if context := system.trace_context:
        validate.trace_context(context)
        properties[TRACE_CONTEXT] = context


@functools.lru_cache(4096)
def born_at(peer: str) -> tuple[str, int]:
    """The IP text and port of a peer ("host:port"); loopback and 0 where it is no such thing (a Unix socket)."""
    try:
        host, port = parse_endpoint(peer)
    except ValueError:
        return "127.0.0.1", 0
    return host.removeprefix("::ffff:") if "." in host else host, port


def deliver(target: v2.Message, message: Delivered, namespace: str, name: str) -> None:
    """Fills `target`, whose topic becomes `namespace`/`name`. An empty handle leaves receipt_handle unset."""
    if namespace:
        target.topic.resource_namespace = namespace
    target.topic.name = name
    target.body = message.body
    user = target.user_properties
    for key, value in message.properties.items():
        if key not in RESERVED:
            user[key] = value
    system = target.system_properties
    _identify(system, message)
    _place(system, message)
    _remember(system, message.properties, namespace)


def _identify(system: v2.SystemProperties, message: Delivered) -> None:
    """What a consumer needs in every case; SDKs crash without digest and encoding (facts: grpc.md 2.3)."""
    properties = message.properties
    if tag := properties.get(TAGS):
        system.tag = tag
    if keys := properties.get(KEYS):
        system.keys.extend(keys.split())
    system.message_id = properties.get(UNIQ_KEY, "")
    digest = system.body_digest
    digest.type = v2.MD5
    digest.checksum = md5(message.body, usedforsecurity=False).hexdigest().upper()
    system.body_encoding = v2.GZIP if message.sys_flag & SYS_FLAG_COMPRESSED else v2.IDENTITY
    system.message_type = type_of(properties).value


def _place(system: v2.SystemProperties, message: Delivered) -> None:
    set_ms(system.born_timestamp, message.born_ms)
    system.born_host = message.properties.get(BORN_HOST) or message.born_host
    set_ms(system.store_timestamp, message.store_ms)
    system.store_host = message.store_host
    system.queue_id = message.queue_id
    system.queue_offset = message.queue_offset
    system.delivery_attempt = message.attempt
    if message.handle:
        system.receipt_handle = message.handle


def _remember(system: v2.SystemProperties, properties: dict[str, str], namespace: str) -> None:
    """The rarer ones, each only where it is stored."""
    if (due_ms := _number(properties, TIMER_DELIVER_MS)) is not None:
        set_ms(system.delivery_timestamp, due_ms)
    if group := properties.get(SHARDING_KEY):
        system.message_group = group
    if context := properties.get(TRACE_CONTEXT):
        system.trace_context = context
    if (seconds := _number(properties, CHECK_IMMUNITY_TIME_IN_SECONDS)) is not None:
        system.orphaned_transaction_recovery_duration.seconds = seconds
    if lite_topic := properties.get(LITE_TOPIC):
        system.lite_topic = lite_topic
    if (priority := _number(properties, PRIORITY)) is not None:
        system.priority = min(priority, 2**31 - 1)
    origin_topic, origin_id = properties.get(DLQ_ORIGIN_TOPIC), properties.get(DLQ_ORIGIN_MESSAGE_ID)
    if origin_topic and origin_id:
        system.dead_letter_queue.topic = split_namespace(namespace, origin_topic)[1]
        system.dead_letter_queue.message_id = origin_id


def split_namespace(namespace: str, stored: str) -> tuple[str, str]:
    """A stored name as (namespace, name); ("", stored) where it is not of that namespace."""
    if not namespace:
        return "", stored
    prefix = next((p for p in (RETRY_PREFIX, DLQ_PREFIX) if stored.startswith(p)), "")
    rest = stored[len(prefix) :]
    if not rest.startswith(f"{namespace}%"):
        return "", stored
    return namespace, prefix + rest[len(namespace) + 1 :]


def to_ms(time: v2.Timestamp | v2.Duration) -> int:
    """Whole milliseconds, rounded down. Python's numbers do not overflow, whatever a client sends."""
    return time.seconds * 1000 + time.nanos // 1_000_000


def set_ms(time: v2.Timestamp | v2.Duration, ms: int) -> None:
    """From milliseconds; `time` counts as set even when they are 0."""
    seconds, rest_ms = divmod(ms, 1000)
    time.seconds = seconds
    time.nanos = rest_ms * 1_000_000


def _number(properties: dict[str, str], key: str) -> int | None:
    text = properties.get(key)
    if text is None or len(text) > NUMBER_DIGITS_MAX or not (text.isascii() and text.isdecimal()):
        return None
    return int(text)
