"""Messages on their way in as the records that they will be. Appends nothing."""

from collections.abc import Sequence

from rmq import message as m
from rmq import priority
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.lite import LiteTopics
from rmq.message import MessageType, Outgoing
from rmq.shard import queue_of
from rmq_store import record
from rmq_store.commitlog import CommitLog
from rmq_store.record import Draft
from rmq_store.state import Topic

_PRIORITY = MessageType.PRIORITY.value
_ORIGIN = m.RMQ_ORIGIN.encode()
_ORIGIN_BYTES = 1024  # what a dead letter or a carried message adds to its properties, at most
PROPERTIES_BYTES_MAX = record.PROPERTIES_BYTES_MAX - _ORIGIN_BYTES


class Drafts:
    """Adds what is the broker's to say, and knows what a record and a segment of this log hold."""

    def __init__(self, log: CommitLog, lites: LiteTopics, config: Config) -> None:
        self._log = log
        self._lites = lites
        self._own_properties = record.encode_properties({m.CLUSTER: config.cluster_name})

    def of(self, topic: Topic, shared_id: int, messages: Sequence[Outgoing]) -> list[tuple[Draft, int]]:
        """The records of one call, each with its tags code, for the queue `shared_id` or that of its message group or
        lite topic or priority.

        They leave room for what a dead letter or a carried message says of its origin. Raises
        ILLEGAL_MESSAGE_PROPERTY_KEY, MESSAGE_PROPERTIES_TOO_LARGE, MESSAGE_BODY_TOO_LARGE,
        LITE_TOPIC_QUOTA_EXCEEDED, ILLEGAL_LITE_TOPIC, MESSAGE_PROPERTY_CONFLICT_WITH_TYPE.
        """
        name, queues, own = topic.name_bytes, len(topic.queues), self._own_properties
        fixed = record.fixed_bytes(name)
        size_max = self._log.segment_bytes - record.BLANK_BYTES - _ORIGIN_BYTES
        by_priority = topic.type == _PRIORITY
        drafts = []
        fresh: set[int] = set()
        for message in messages:
            properties, body, tag, group = message.properties, message.body, message.tag, message.message_group
            if _ORIGIN in properties and record.property_bytes(properties, _ORIGIN):
                # a replay would take it for ours, and settle what it names
                raise ClientError(Code.ILLEGAL_MESSAGE_PROPERTY_KEY, f"property {m.RMQ_ORIGIN} is the server's own")
            properties += own
            host = record.host_bytes(message.born_host)
            size = fixed + len(host) + len(body) + len(properties)
            if len(properties) > PROPERTIES_BYTES_MAX or size > size_max:
                raise _too_large(len(properties), size, size_max)
            queue_id = queue_of(group, queues) if group else shared_id
            if message.lite_topic:
                if group:
                    raise _both(message)
                queue_id = self._lites.queue_for(topic, message.lite_topic, fresh)
            elif by_priority and not group:
                queue_id = priority.queue_of(message.priority, queues)
            draft = Draft(
                name, queue_id, body, properties, message.sys_flag,
                message.born_ms, host, message.born_port, 0, 0, size,
            )  # fmt: skip
            drafts.append((draft, record.tags_code(tag) if tag else 0))
        return drafts


def _both(message: Outgoing) -> ClientError:
    text = f"a message has a message group or a lite topic, not both: {message.message_id}"
    return ClientError(Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, text)


def _too_large(properties_bytes: int, size: int, size_max: int) -> ClientError:
    if properties_bytes > PROPERTIES_BYTES_MAX:
        text = f"all properties take {properties_bytes} bytes, at most {PROPERTIES_BYTES_MAX}"
        return ClientError(Code.MESSAGE_PROPERTIES_TOO_LARGE, text)
    text = f"the message takes {size} bytes, a segment of this store holds at most {size_max}"
    return ClientError(Code.MESSAGE_BODY_TOO_LARGE, text)
