"""Translates between a gRPC Message and stored properties, both ways (facts: grpc.md 5.2-5.5).

Body and encoding flag stay as they came: nothing is compressed, decompressed or re-encoded here. Fields are set one by
one, which costs half of what constructors cost.
"""

import functools
from collections.abc import Mapping, Sequence
from hashlib import md5
from typing import Final

from rmq.config import parse_endpoint
from rmq.errors import ClientError, Code
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
    MessageType,
    Outgoing,
    type_of,
)
from rmq_proto import v2
from rmq_proxy import validate
from rmq_proxy.validate import RESERVED, Limits

RECONSUME_TIME = "RECONSUME_TIME"
NORMAL: Final = MessageType.NORMAL
"""Python 3.11 takes 150 ns to look up a member of an enum."""
TRANSACTION: Final = v2.TRANSACTION
GZIP: Final = v2.GZIP
NUMBER_DIGITS_MAX = 15  # enough for any time in ms; a property that came over Remoting may hold anything


def outgoing(message: v2.Message, topic: str, born_at: tuple[str, int], limits: Limits, now_ms: int) -> Outgoing:
    """One message of a SendMessageRequest, checked in Apache's order. `topic` is the stored name.

    Raises ClientError as facts grpc.md 1.3 step 2 lists them. Each field is asked for once, and nothing is called for
    what most messages do not have: that is the cost.
    """
    body, system, user = message.body, message.system_properties, message.user_properties
    if not body or len(body) > limits.message_bytes_max:
        validate.body(body, limits)
    kind, message_id, tag, keys = NORMAL, system.message_id, system.tag, system.keys
    size, priority = 0, -1
    if user or keys:
        stored, joined, size = _label(user, tag, keys, limits)
    else:
        stored = joined = ""
        if tag:
            validate.tag(tag)
    if size or tag:
        validate.properties_size(size, tag, limits)
    if not message_id.isalnum():  # as those of the official clients are
        validate.message_id(message_id)
    stored += f"{UNIQ_KEY}\x01{message_id}\x02"
    if tag:
        stored += f"{TAGS}\x01{tag}\x02"
    if joined:
        stored += f"{KEYS}\x01{joined}\x02"
    if system.message_type == TRANSACTION:
        kind = MessageType.TRANSACTION
        stored += _transaction(system, topic, limits)
    if system.HasField("delivery_timestamp"):
        kind = MessageType.DELAY if kind is NORMAL else kind
        due_ms = to_ms(system.delivery_timestamp)
        validate.delivery_ms(due_ms, now_ms, limits)
        stored += f"{TIMER_DELIVER_MS}\x01{due_ms}\x02"
    if group := system.message_group:
        kind = MessageType.FIFO if kind is NORMAL else kind
        validate.message_group(group, limits)
        stored += f"{SHARDING_KEY}\x01{group}\x02"
    lite_topic = ""
    if system.HasField("lite_topic"):
        kind = MessageType.LITE if kind is NORMAL else kind
        lite_topic = system.lite_topic
        validate.lite_topic(lite_topic, limits)
        stored += f"{LITE_TOPIC}\x01{lite_topic}\x02"
    if system.HasField("priority"):
        kind = MessageType.PRIORITY if kind is NORMAL else kind
        priority = system.priority
        validate.priority(priority)
        stored += f"{PRIORITY}\x01{priority}\x02"
    if kind is MessageType.TRANSACTION:
        _only_transactional(system)
    attempt = system.delivery_attempt
    if attempt > 0:
        stored += f"{RECONSUME_TIME}\x01{attempt}\x02"
    born, born_host, context = system.born_timestamp, system.born_host, system.trace_context
    seconds = born.seconds
    if seconds or system.HasField("born_timestamp"):
        validate.born_s(seconds)
        born_ms = seconds * 1000 + born.nanos // 1_000_000
    else:
        born_ms = now_ms
    stored += f"{BORN_TIMESTAMP}\x01{born_ms}\x02"
    if born_host and (born_host.isprintable() or not validate.has_control(born_host)):
        stored += f"{BORN_HOST}\x01{born_host}\x02"
    if context:
        validate.trace_context(context)
        stored += f"{TRACE_CONTEXT}\x01{context}\x02"
    properties = stored.encode()
    if len(properties) > limits.stored_properties_bytes_max:
        validate.stored_size(len(properties), limits)
    sys_flag = SYS_FLAG_COMPRESSED if system.body_encoding == GZIP else 0
    return Outgoing(
        topic, body, message_id, properties, kind, tag, born_ms, *born_at, sys_flag, group, lite_topic, priority
    )


def _label(user: Mapping[str, str], tag: str, keys: Sequence[str], limits: Limits) -> tuple[str, str, int]:
    """The user's properties as they are stored, the keys joined, and the bytes of both; all checked, the tag too."""
    size, stored, joined = 0, "", ""
    if user:
        properties = dict(user.items())
        size = validate.user_properties(properties, limits)
        stored = "".join([f"{name}\x01{value}\x02" for name, value in properties.items()])
    validate.tag(tag)
    if keys:
        validate.keys(keys)
        joined = " ".join(filter(None, keys))
        size += validate.utf8_bytes("".join(keys))
    return stored, joined, size


def _transaction(system: v2.SystemProperties, topic: str, limits: Limits) -> str:
    stored = f"{TRAN_MSG}\x01true\x02{PGROUP}\x01{topic}\x02"
    if system.HasField("orphaned_transaction_recovery_duration"):
        seconds = system.orphaned_transaction_recovery_duration.seconds
        validate.recovery_s(seconds, limits)
        stored += f"{CHECK_IMMUNITY_TIME_IN_SECONDS}\x01{seconds}\x02"
    return stored


def _only_transactional(system: v2.SystemProperties) -> None:
    """As official clients check before they send. Raises MESSAGE_PROPERTY_CONFLICT_WITH_TYPE."""
    for field in ("message_group", "delivery_timestamp", "lite_topic", "priority"):
        if system.HasField(field):
            text = f"a transactional message has no {field}: send it without, or without a transaction"
            raise ClientError(Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, text)


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
