"""A message on its way in as the record that it will be. Appends nothing."""

from rmq import message as m
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.message import Outgoing
from rmq_store import record
from rmq_store.commitlog import CommitLog
from rmq_store.record import PROPERTIES_BYTES_MAX, Draft

_ORIGIN = m.RMQ_ORIGIN.encode()
_ORIGIN_BYTES = 1024  # what a dead letter or a carried message adds to its properties, at most


class Drafts:
    """Adds what is the broker's to say, and knows what a record and a segment of this log hold."""

    def __init__(self, log: CommitLog, config: Config) -> None:
        self._log = log
        self._own_properties = record.encode_properties({m.CLUSTER: config.cluster_name})

    def draft(self, topic: bytes, queue_id: int, message: Outgoing) -> Draft:
        """The record to be; it leaves room for what a dead letter or a carried message says of its origin.

        Raises ILLEGAL_MESSAGE_PROPERTY_KEY, MESSAGE_PROPERTIES_TOO_LARGE, MESSAGE_BODY_TOO_LARGE.
        """
        properties = message.properties
        if _ORIGIN in properties and record.property_bytes(properties, _ORIGIN):
            # a replay would take it for ours, and settle what it names
            raise ClientError(Code.ILLEGAL_MESSAGE_PROPERTY_KEY, f"property {m.RMQ_ORIGIN} is the server's own")
        properties += self._own_properties
        if len(properties) > PROPERTIES_BYTES_MAX - _ORIGIN_BYTES:
            raise ClientError(
                Code.MESSAGE_PROPERTIES_TOO_LARGE,
                f"all properties take {len(properties)} bytes, at most {PROPERTIES_BYTES_MAX - _ORIGIN_BYTES}",
            )
        host = record.host_bytes(message.born_host)
        draft = Draft(
            topic, queue_id, message.body, properties, message.sys_flag, message.born_ms, host, message.born_port
        )
        bytes_max = self._log.segment_bytes - record.BLANK_BYTES - _ORIGIN_BYTES
        if draft.size > bytes_max:
            raise ClientError(
                Code.MESSAGE_BODY_TOO_LARGE,
                f"the message takes {draft.size} bytes, a segment of this store holds at most {bytes_max}",
            )
        return draft
