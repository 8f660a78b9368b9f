"""A message on its way in (Outgoing) and on its way out (Delivered), in RocketMQ's stored property names.

Both protocols meet here: gRPC's fields become the stored properties that Remoting's property string has from the start
(TAGS, KEYS, UNIQ_KEY, __SHARDINGKEY, TIMER_DELIVER_MS, ...) plus the user's own.
"""

import enum
from collections.abc import Mapping

import msgspec

TAGS = "TAGS"
KEYS = "KEYS"
UNIQ_KEY = "UNIQ_KEY"
SHARDING_KEY = "__SHARDINGKEY"
TRACE_CONTEXT = "TRACE_CONTEXT"
BORN_HOST = "__BORNHOST"
BORN_TIMESTAMP = "BORN_TIMESTAMP"
CLUSTER = "CLUSTER"
TIMER_DELIVER_MS = "TIMER_DELIVER_MS"
TRAN_MSG = "TRAN_MSG"
PGROUP = "PGROUP"
CHECK_IMMUNITY_TIME_IN_SECONDS = "CHECK_IMMUNITY_TIME_IN_SECONDS"
RETRY_TOPIC = "RETRY_TOPIC"
DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC"
DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID"
RMQ_ORIGIN = "RMQ_ORIGIN"
PRIORITY = "_SYS_MSG_PRIORITY_"
LITE_TOPIC = "__LITE_TOPIC"

SYS_FLAG_COMPRESSED = 0x1
RETRY_PREFIX = "%RETRY%"
DLQ_PREFIX = "%DLQ%"
SYSTEM_TOPIC_PREFIX = "rmq_sys_"
SYSTEM_GROUP_PREFIX = "CID_RMQ_SYS_"
TRACE_TOPIC = "RMQ_SYS_TRACE_TOPIC"  # what clients tell of messages: the one system topic that they write and read
_SYSTEM_TOPICS = """
    TBW102 SCHEDULE_TOPIC_XXXX BenchmarkTest RMQ_SYS_TRANS_HALF_TOPIC RMQ_SYS_TRANS_OP_HALF_TOPIC RMQ_SYS_TRACE_TOPIC
    TRANS_CHECK_MAX_TIME_TOPIC SELF_TEST_TOPIC OFFSET_MOVED_EVENT CHECKPOINT_TOPIC
"""
SYSTEM_TOPICS = frozenset(_SYSTEM_TOPICS.split())


class MessageType(enum.IntEnum):
    """A topic's type, or a message's; the gRPC number is the value (MIXED is a topic's only and is ours)."""

    UNSPECIFIED = 0
    NORMAL = 1
    FIFO = 2
    DELAY = 3
    TRANSACTION = 4
    LITE = 5
    PRIORITY = 6
    MIXED = -1


def type_of(properties: Mapping[str, str]) -> MessageType:
    """Derived from content, as Apache does, never from the client's `message_type` (facts: grpc.md 1.3)."""
    if TRAN_MSG in properties:
        return MessageType.TRANSACTION
    if TIMER_DELIVER_MS in properties:
        return MessageType.DELAY
    if SHARDING_KEY in properties:
        return MessageType.FIFO
    if LITE_TOPIC in properties:
        return MessageType.LITE
    if PRIORITY in properties:
        return MessageType.PRIORITY
    return MessageType.NORMAL


def is_system(topic: str, group: str = "") -> bool:
    """RocketMQ's own, which no client may name."""
    return topic in SYSTEM_TOPICS or topic.startswith(SYSTEM_TOPIC_PREFIX) or group.startswith(SYSTEM_GROUP_PREFIX)


class Outgoing(msgspec.Struct, gc=False):
    """A message to store. `topic` is the stored name (`ns%name` with a namespace); `body` is still compressed.

    `properties` are as the record has them, `name 01 value 02` repeated in UTF-8, without those that the broker adds;
    `message_id`, `type`, `tag`, `message_group`, `lite_topic` and `priority` (-1: none) say again what is in them, so
    that nobody has to look for it.
    """

    topic: str
    body: bytes
    message_id: str
    properties: bytes
    type: MessageType
    tag: str
    born_ms: int
    born_host: str = "127.0.0.1"  # IP text; stored in the record's bornHost field
    born_port: int = 0
    sys_flag: int = 0
    message_group: str = ""
    lite_topic: str = ""
    priority: int = -1


class SendResult(msgspec.Struct, gc=False):
    """Where a message went. `recall_handle` is filled for delayed messages only, `transaction_id` for half ones."""

    queue_id: int
    queue_offset: int
    recall_handle: str = ""
    transaction_id: str = ""


class Delivered(msgspec.Struct):
    """A message handed to a consumer. `topic` is the original one, `attempt` counts from 1."""

    topic: str
    queue_id: int
    queue_offset: int
    body: bytes
    properties: dict[str, str]
    sys_flag: int
    born_ms: int
    born_host: str
    store_ms: int
    store_host: str  # "ip:port"
    attempt: int
    handle: str
