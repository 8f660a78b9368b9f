"""Owns every limit that a gRPC client can hit, and the code and text it then gets (facts: grpc.md sections 1 and 4).

Texts keep Apache's wording where that is what people search for, and add what to do. Nothing here touches the broker:
whether a topic exists, or a handle is alive, is the broker's to say.
"""

import functools
import re
from collections.abc import Mapping, Sequence

import msgspec

from rmq.errors import ClientError, Code
from rmq.filter import Filter, Filters, by_tag
from rmq.message import DLQ_PREFIX, RETRY_PREFIX, SYSTEM_GROUP_PREFIX, SYSTEM_TOPIC_PREFIX, TRACE_TOPIC, is_system
from rmq_proto import v2

TOPIC_CHARS_MAX = 127
GROUP_CHARS_MAX = 120
CLIENT_ID_CHARS_MAX = 255
FILTER_CHARS_MAX = 16_384
SETTINGS_BYTES_MAX = 262_144
YEAR_10000_S = 253_402_300_800


# Apache's set (facts: grpc.md 4.3), the system properties that it forgets and so shows to consumers, and ours.
_RESERVED = """
    TRACE_ON MSG_REGION KEYS TAGS WAIT DELAY RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG PGROUP MIN_OFFSET MAX_OFFSET
    BUYER_ID ORIGIN_MESSAGE_ID TRANSFER_FLAG CORRECTION_FLAG MQ2_FLAG RECONSUME_TIME UNIQ_KEY MAX_RECONSUME_TIMES
    CONSUME_START_TIME POP_CK POP_CK_OFFSET 1ST_POP_TIME TRAN_PREPARED_QUEUE_OFFSET DUP_INFO EXTEND_UNIQ_INFO
    INSTANCE_ID CORRELATION_ID REPLY_TO_CLIENT TTL ARRIVE_TIME PUSH_REPLY_TIME CLUSTER MSG_TYPE INNER_MULTI_QUEUE_OFFSET
    TIMER_DELAY_MS TIMER_DELAY_SEC TIMER_DELIVER_MS TIMER_ENQUEUE_MS TIMER_DEQUEUE_MS TIMER_ROLL_TIMES TIMER_OUT_MS
    TIMER_DEL_UNIQKEY TIMER_DELAY_LEVEL __BORNHOST BORN_TIMESTAMP DLQ_ORIGIN_TOPIC DLQ_ORIGIN_MESSAGE_ID __CRC32#

    __SHARDINGKEY TRACE_CONTEXT CHECK_IMMUNITY_TIME_IN_SECONDS __transactionId__ TRANSACTION_CHECK_TIMES REDIRECT
    INNER_NUM INNER_MULTI_DISPATCH

    RMQ_ORIGIN RMQ_CHECK _SYS_MSG_PRIORITY_ __LITE_TOPIC
"""
RESERVED = frozenset(_RESERVED.split())

_NAME = re.compile(r"[%|a-zA-Z0-9_-]+")
_NAMESPACE = re.compile(r"[|a-zA-Z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PROPERTY_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]{0,63}")


class Limits(msgspec.Struct, frozen=True):
    """What node fills from the configuration; the defaults are RocketMQ 5.5's (facts: grpc.md 9.1)."""

    message_bytes_max: int = 4_194_304
    user_properties_max: int = 128
    properties_bytes_max: int = 16_384
    stored_properties_bytes_max: int = 32_000  # the record counts them in 16 bits, and the broker adds some of its own
    message_group_bytes_max: int = 63
    lite_topic_chars_max: int = 64
    lite_subscriptions_max: int = 2000
    delay_ms_max: int = 3_456_000_000
    recovery_s_max: int = 3600
    invisible_ms_min: int = 10_000
    invisible_ms_max: int = 43_200_000
    auto_renew_ms: int = 60_000
    poll_ms_min: int = 5000
    poll_ms_max: int = 20_000
    poll_reserve_ms: int = 50  # a poll ends this long before the client gives up
    receive_batch_max: int = 32
    request_timeout_ms: int = 3000  # assumed of a client whose settings are not here
    client_silent_ms: int = 120_000
    clients_max: int = 100_000


@functools.lru_cache(8192)
def topic_name(namespace: str, name: str) -> str:
    """The stored name, `namespace%name` where there is a namespace, for all but the trace topic (4.x clients: it has
    none). Raises ILLEGAL_TOPIC.
    """
    if name == TRACE_TOPIC:
        return name
    stored = _stored(namespace, name, "topic", TOPIC_CHARS_MAX, Code.ILLEGAL_TOPIC)
    if is_system(name) or stored.startswith(SYSTEM_TOPIC_PREFIX):
        raise ClientError(Code.ILLEGAL_TOPIC, f"cannot access system topic: {name}; choose another topic")
    return stored


@functools.lru_cache(8192)
def group_name(namespace: str, name: str) -> str:
    """The stored name, `namespace%name` where there is a namespace. Raises ILLEGAL_CONSUMER_GROUP."""
    stored = _stored(namespace, name, "group", GROUP_CHARS_MAX, Code.ILLEGAL_CONSUMER_GROUP)
    if name.startswith(SYSTEM_GROUP_PREFIX) or stored.startswith(SYSTEM_GROUP_PREFIX):
        raise ClientError(
            Code.ILLEGAL_CONSUMER_GROUP, f"cannot use system consumer group: {name}; choose another group"
        )
    return stored


def _stored(namespace: str, name: str, what: str, chars_max: int, code: Code) -> str:
    if not name.strip():
        raise ClientError(code, f"{what} name cannot be blank; name a {what}")
    if not _NAME.fullmatch(name):
        text = f"the specified {what} {name[:80]!r} contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        raise ClientError(code, text)
    if namespace and not _NAMESPACE.fullmatch(namespace):
        text = f"the namespace {namespace[:80]!r} contains illegal characters, allowing only ^[|a-zA-Z0-9_-]+$"
        raise ClientError(code, text)
    stored = join_namespace(namespace, name)
    if len(stored) > chars_max:
        with_namespace = " (with its namespace)" if namespace else ""
        text = (
            f"the specified {what} is longer than {what} max length {chars_max}: it has {len(stored)}{with_namespace}"
        )
        raise ClientError(code, text)
    return stored


def join_namespace(namespace: str, name: str) -> str:
    """As 4.x stores it: `ns%name`, and `%DLQ%ns%group` for a retry or dead letter topic."""
    if not namespace:
        return name
    for prefix in (RETRY_PREFIX, DLQ_PREFIX):
        if name.startswith(prefix):
            return f"{prefix}{namespace}%{name[len(prefix) :]}"
    return f"{namespace}%{name}"


def client_id(text: str) -> str:
    """Raises CLIENT_ID_REQUIRED when blank, BAD_REQUEST when longer than 255."""
    if not text.strip():
        raise ClientError(Code.CLIENT_ID_REQUIRED, "client id cannot be empty; send the header x-mq-client-id")
    if len(text) > CLIENT_ID_CHARS_MAX:
        raise ClientError(Code.BAD_REQUEST, f"x-mq-client-id is longer than {CLIENT_ID_CHARS_MAX} characters")
    return text


def body(data: bytes, limits: Limits) -> None:
    """1 to `message_bytes_max` bytes, counted as transmitted. Raises MESSAGE_BODY_EMPTY, MESSAGE_BODY_TOO_LARGE."""
    if not data:
        raise ClientError(Code.MESSAGE_BODY_EMPTY, "message body cannot be empty")
    if len(data) > limits.message_bytes_max:
        text = f"message body cannot exceed the max {limits.message_bytes_max} bytes: it has {len(data)}"
        raise ClientError(Code.MESSAGE_BODY_TOO_LARGE, text)


def user_properties(properties: Mapping[str, str], limits: Limits) -> int:
    """Count, names and characters; returns their size in UTF-8 bytes.

    Raises MESSAGE_PROPERTIES_TOO_LARGE, ILLEGAL_MESSAGE_PROPERTY_KEY.
    """
    if len(properties) > limits.user_properties_max:
        text = f"the number of user property cannot exceed {limits.user_properties_max}: there are {len(properties)}"
        raise ClientError(Code.MESSAGE_PROPERTIES_TOO_LARGE, text)
    if not RESERVED.isdisjoint(properties):
        key = next(filter(RESERVED.__contains__, properties))
        text = f"property key {key} is used by the system; rename your property"
        raise ClientError(Code.ILLEGAL_MESSAGE_PROPERTY_KEY, text)
    if "" in properties:
        raise ClientError(Code.ILLEGAL_MESSAGE_PROPERTY_KEY, "the key of a user property cannot be empty")
    # joined first: one look at one long text is cheaper than one at each
    names, values = "".join(properties), "".join(properties.values())
    if has_control(names) or has_control(values):
        key = next(k for k, v in properties.items() if has_control(k) or has_control(v))
        text = f"property {key[:80]!r} cannot contain control characters, neither in its key nor in its value"
        raise ClientError(Code.ILLEGAL_MESSAGE_PROPERTY_KEY, text)
    return utf8_bytes(names) + utf8_bytes(values)


def tag(text: str) -> None:
    """Raises ILLEGAL_MESSAGE_TAG. No tag is fine."""
    if not text:
        return
    if text.isspace():
        raise ClientError(Code.ILLEGAL_MESSAGE_TAG, "tag cannot be the char sequence of whitespace")
    if "|" in text:
        raise ClientError(Code.ILLEGAL_MESSAGE_TAG, "tag cannot contain '|': a message has one tag")
    _no_control("tag", text, Code.ILLEGAL_MESSAGE_TAG)


def keys(texts: Sequence[str]) -> None:
    """Raises ILLEGAL_MESSAGE_KEY."""
    for text in texts:
        if text.isspace():
            raise ClientError(Code.ILLEGAL_MESSAGE_KEY, "key cannot be the char sequence of whitespace")
        _no_control("key", text, Code.ILLEGAL_MESSAGE_KEY)


def properties_size(others_bytes: int, tag_text: str, limits: Limits) -> None:
    """User properties and keys, with the tag, in UTF-8 bytes. Raises MESSAGE_PROPERTIES_TOO_LARGE."""
    size = others_bytes + utf8_bytes(tag_text)
    if size > limits.properties_bytes_max:
        text = f"the total size of user property is too large, max={limits.properties_bytes_max} bytes, it has {size}"
        raise ClientError(Code.MESSAGE_PROPERTIES_TOO_LARGE, text)


def stored_size(size: int, limits: Limits) -> None:
    """All properties as the record spells them: `key 0x01 value 0x02`. Raises MESSAGE_PROPERTIES_TOO_LARGE."""
    if size > limits.stored_properties_bytes_max:
        text = f"all properties of a message together cannot exceed {limits.stored_properties_bytes_max} bytes: {size}"
        raise ClientError(Code.MESSAGE_PROPERTIES_TOO_LARGE, text)


def message_id(text: str) -> None:
    """Any text that is not blank and can be stored. Raises ILLEGAL_MESSAGE_ID."""
    if not text or text.isspace():
        raise ClientError(Code.ILLEGAL_MESSAGE_ID, "message id cannot be blank; set system_properties.message_id")
    _no_control("message id", text, Code.ILLEGAL_MESSAGE_ID)


def trace_context(text: str) -> None:
    """Raises ILLEGAL_MESSAGE_PROPERTY_KEY: a control character would end the stored property."""
    _no_control("trace context", text, Code.ILLEGAL_MESSAGE_PROPERTY_KEY)


def message_group(text: str, limits: Limits) -> None:
    """1 to 63 bytes of UTF-8. Raises ILLEGAL_MESSAGE_GROUP."""
    if text.isspace():
        raise ClientError(Code.ILLEGAL_MESSAGE_GROUP, "message group cannot be the char sequence of whitespace")
    if utf8_bytes(text) > limits.message_group_bytes_max:
        longest = limits.message_group_bytes_max
        raise ClientError(Code.ILLEGAL_MESSAGE_GROUP, f"message group exceeds the max size of {longest} bytes")
    _no_control("message group", text, Code.ILLEGAL_MESSAGE_GROUP)


def lite_topic(text: str, limits: Limits) -> None:
    """1 to 64 characters. Raises ILLEGAL_LITE_TOPIC."""
    if not text or text.isspace() or len(text) > limits.lite_topic_chars_max:
        text = f"a lite topic has 1 to {limits.lite_topic_chars_max} characters and is not blank"
        raise ClientError(Code.ILLEGAL_LITE_TOPIC, text)
    _no_control("lite topic", text, Code.ILLEGAL_LITE_TOPIC)


def delivery_ms(due_ms: int, now_ms: int, limits: Limits) -> None:
    """Wall-clock milliseconds; the past is delivered at once. Raises ILLEGAL_DELIVERY_TIME."""
    if due_ms < 0 or due_ms - now_ms > limits.delay_ms_max:
        text = f"the delay time of message is too large, max is {limits.delay_ms_max} ms from now"
        if due_ms < 0:
            text = "delivery_timestamp is before 1970; give the wall-clock time of the delivery"
        raise ClientError(Code.ILLEGAL_DELIVERY_TIME, text)


def recovery_s(seconds: int, limits: Limits) -> None:
    """The time until a transaction is first checked. Raises BAD_REQUEST."""
    if not 0 <= seconds <= limits.recovery_s_max:
        text = f"orphaned_transaction_recovery_duration must be 0 to {limits.recovery_s_max} s, it is {seconds} s"
        raise ClientError(Code.BAD_REQUEST, text)


def priority(number: int) -> None:
    """Raises BAD_REQUEST."""
    if number < 0:
        raise ClientError(Code.BAD_REQUEST, f"priority cannot be negative, it is {number}")


def born_s(seconds: int) -> None:
    """Raises BAD_REQUEST for a time that no calendar has."""
    if not 0 <= seconds < YEAR_10000_S:
        raise ClientError(Code.BAD_REQUEST, f"born_timestamp of {seconds} s is not between the years 1970 and 9999")


def receive_invisible_ms(duration_ms: int, limits: Limits) -> None:
    """For a receive without auto_renew. Raises ILLEGAL_INVISIBLE_TIME."""
    low, high = limits.invisible_ms_min, limits.invisible_ms_max
    if not low <= duration_ms <= high:
        side = f"too small. min is {low}" if duration_ms < low else f"too large. max is {high}"
        text = f"the invisibleTime is {side} ms, it is {duration_ms} ms; set invisible_duration, or auto_renew"
        raise ClientError(Code.ILLEGAL_INVISIBLE_TIME, text)


def change_invisible_ms(duration_ms: int, limits: Limits) -> None:
    """For ChangeInvisibleDuration: from 0 on. Raises ILLEGAL_INVISIBLE_TIME."""
    if not 0 <= duration_ms <= limits.invisible_ms_max:
        side = "too small. min is 0" if duration_ms < 0 else f"too large. max is {limits.invisible_ms_max}"
        raise ClientError(Code.ILLEGAL_INVISIBLE_TIME, f"the invisibleTime is {side} ms, it is {duration_ms} ms")


def batch(size: int, limits: Limits) -> int:
    """How many messages a receive may bring; more than the limit is lowered to it. Raises BAD_REQUEST below 1."""
    if size < 1:
        raise ClientError(Code.BAD_REQUEST, f"batch_size must be 1 to {limits.receive_batch_max}, it is {size}")
    return min(size, limits.receive_batch_max)


def filter_expression(kind: int, expression: str, filters: Filters) -> Filter:
    """Compiled. Raises ILLEGAL_FILTER_EXPRESSION."""
    if kind == v2.SQL:
        if not expression.strip():
            raise ClientError(Code.ILLEGAL_FILTER_EXPRESSION, "the SQL92 filter expression cannot be empty")
        return filters.by_sql(expression)
    if kind not in (v2.TAG, v2.FILTER_TYPE_UNSPECIFIED):
        raise ClientError(Code.ILLEGAL_FILTER_EXPRESSION, f"unknown filter type {kind}; use TAG or SQL")
    return _tag_expression(expression)


@functools.lru_cache(1024)
def _tag_expression(expression: str) -> Filter:
    if len(expression) > FILTER_CHARS_MAX:
        text = f"the filter expression is longer than {FILTER_CHARS_MAX} characters"
        raise ClientError(Code.ILLEGAL_FILTER_EXPRESSION, text)
    return by_tag(expression)


def client_properties(properties: Mapping[str, str]) -> None:
    """What a client says about itself in its settings (rocketmq-apis 2.2). Raises INVALID_CLIENT_PROPERTIES."""
    if not properties:
        return
    wrong = _wrong_client_properties(properties)
    if wrong:
        raise ClientError(Code.INVALID_CLIENT_PROPERTIES, f"client_properties: {wrong}")


def _wrong_client_properties(properties: Mapping[str, str]) -> str:
    if len(properties) > 32:
        return f"at most 32 entries, there are {len(properties)}"
    if sum(utf8_bytes(k) + utf8_bytes(v) for k, v in properties.items()) > 4096:
        return "at most 4096 bytes in all"
    for key, value in properties.items():
        if not _PROPERTY_NAME.fullmatch(key):
            return f"key {key[:80]!r} must be a letter, then up to 63 letters, digits, '_', '.' or '-'"
        if key.startswith("rocketmq."):
            return f"keys that start with 'rocketmq.' are reserved: {key}"
        if len(value) > 256:
            return f"the value of {key} is longer than 256 characters"
    return ""


def utf8_bytes(text: str) -> int:
    """Its length in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def has_control(text: str) -> bool:
    """Whether an ISO control character is in it (0x00-0x1F, 0x7F-0x9F): 0x01 and 0x02 separate stored properties."""
    return not text.isprintable() and _CONTROL.search(text) is not None


def _no_control(what: str, text: str, code: Code) -> None:
    if has_control(text):
        raise ClientError(code, f"{what} cannot contain control characters")
