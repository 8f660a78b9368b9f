"""Dead letters: one record in %DLQ%group that names its origin, so that the message's life ends with it and no crash
can fall between.
"""

import logging

from rmq import message as m
from rmq.message import MessageType
from rmq.topics import Topics
from rmq.traffic import Traffic
from rmq_store import record
from rmq_store.journal import Acked
from rmq_store.ledger import Open
from rmq_store.record import Draft
from rmq_store.state import Origin
from rmq_store.store import Store

log_ = logging.getLogger("rmq.burial")


class Burial:
    """Makes dead letters."""

    def __init__(self, store: Store, topics: Topics, traffic: Traffic) -> None:
        self._store = store
        self._traffic = traffic
        self._topics = topics

    def bury(self, found: Open) -> None:
        """The lease ends with it. Raises StoreFull, and ClientError where the topic can't be made."""
        ledger = found.ledger
        group = ledger.subscription.group
        name, name_offset = self._store.state.leases.name(found)
        kept = self._store.read_message(ledger.subscription.topic, ledger.queue_id, found.offset)
        origin_topic = name.subscription.topic
        if kept is None:
            log_.error("a message of %s queue %d cannot be read and is given up", origin_topic, name.queue_id)
            self._store.apply(Acked(group, origin_topic, [(name.queue_id, [name_offset])]))
            return
        topic = self._topics.make(m.DLQ_PREFIX + group, MessageType.MIXED, 1)
        properties = kept.decode_properties()
        origin = Origin(kept.position, origin_topic, name.queue_id, name_offset, group)
        properties |= {
            m.DLQ_ORIGIN_TOPIC: origin_topic,
            m.DLQ_ORIGIN_MESSAGE_ID: properties.get(m.UNIQ_KEY, ""),
            m.RMQ_ORIGIN: origin.text(),
        }
        draft = Draft.make(
            topic.name_bytes, 0, kept.body, record.encode_properties(properties), kept.sys_flag, kept.born_ms,
            kept.born_host, kept.born_port, max(found.attempt - 1, 0),
        )  # fmt: skip
        tags = properties.get(m.TAGS, "")
        self._store.append(topic, topic.queues[0], draft, record.tags_code(tags) if tags else 0, origin)
        self._traffic.of(name.subscription).buried += 1
