"""What commands show of the admin service's messages: as JSON with stable keys, and as cells of tables.

Field for field and in the contract's words, so that a key means what proto/rmq/admin.proto says. Nothing is asked or
printed here.
"""

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rmq import output

if TYPE_CHECKING:
    from rmq.retry import RetryPolicy
    from rmq_proto import admin as pb

BODY_BYTES_MAX = 64 << 20  # of a compressed body that is opened
MESSAGE_COLUMNS = ("STORED", "QUEUE", "OFFSET", "MESSAGE ID", "TAG", "KEYS", "BODY")
GROUP_COLUMNS = ("GROUP", "TOPICS", "LAG", "LAG TIME", "LEASED", "READY", "WAITING", "CLIENTS", "FLAGS")
GROUP_TOPIC_COLUMNS = ("TOPIC", "LAG", "LAG TIME", "LEASED", "READY", "WAITING")
PLACE_COLUMNS = ("TOPIC", "QUEUE", "COMMITTED", "NEXT", "MAX", "OPEN")
LEASE_COLUMNS = ("TOPIC", "QUEUE", "OFFSET", "ATTEMPT", "DUE", "CLIENT", "MESSAGE ID")
CLIENT_COLUMNS = ("CLIENT", "TYPE", "LANGUAGE", "PEER", "GROUPS", "TOPICS", "SILENT", "STREAM", "LEASES")
GROUP_FLAG_WORDS = {  # flags of a group, and what is said of one that is on
    "orderly": "in order per queue",
    "lite_exclusive": "lite topics exclusive",
    "lite_reset_on_takeover": "from the beginning when taken over",
    "lite_reset_on_unsubscribe": "from the beginning after an unsubscription",
}
_SYSTEM_PREFIXES = ("%RETRY%", "%DLQ%", "rmq_sys_", "RMQ_SYS_")


def is_system(name: str) -> bool:
    """Whether a topic was made by the server for itself, or for the clients' traces."""
    return name.startswith(_SYSTEM_PREFIXES)


def topic_document(topic: "pb.Topic") -> dict[str, Any]:
    """One topic."""
    queues = [{"id": q.id, "min_offset": q.min_offset, "max_offset": q.max_offset} for q in topic.queues]
    return {"name": topic.name, "type": topic.type, "queues": queues, "groups": list(topic.groups)}


def kept_messages(topic: "pb.Topic") -> int:
    """How many messages can be read."""
    return sum(queue.max_offset - queue.min_offset for queue in topic.queues)


def group_document(group: "pb.Group") -> dict[str, Any]:
    """One group, with the leases that were asked for."""
    return {
        "name": group.name,
        "attempts_max": group.attempts_max,
        "retry_ms": list(group.retry_ms),
        "backoff": backoff_document(group.backoff) if group.HasField("backoff") else None,
        **{flag: getattr(group, flag) for flag in GROUP_FLAG_WORDS},
        "topics": [_group_topic_document(topic) for topic in group.topics],
        "clients": list(group.clients),
    }


def backoff_document(backoff: "pb.Backoff | RetryPolicy") -> dict[str, Any]:
    """Exponential back-off."""
    return {"initial_ms": backoff.initial_ms, "max_ms": backoff.max_ms, "multiplier": backoff.multiplier}


def _group_topic_document(topic: "pb.GroupTopic") -> dict[str, Any]:
    return {
        "topic": topic.topic,
        "lag_messages": topic.lag_messages,
        "lag_ms": topic.lag_ms,
        "leased": topic.leased,
        "ready": topic.ready,
        "waiting_polls": topic.waiting_polls,
        "places": [_place_document(place) for place in topic.places],
        "leases": [_lease_document(lease) for lease in topic.leases],
    }


def _place_document(place: "pb.Place") -> dict[str, Any]:
    return {
        "queue_id": place.queue_id,
        "committed_offset": place.committed_offset,
        "next_offset": place.next_offset,
        "max_offset": place.max_offset,
        "open": place.open,
    }


def _lease_document(lease: "pb.Lease") -> dict[str, Any]:
    return {
        "queue_id": lease.queue_id,
        "offset": lease.offset,
        "attempt": lease.attempt,
        "due_ms": lease.due_ms,
        "client_id": lease.client_id,
        "message_id": lease.message_id,
    }


def group_row(group: "pb.Group") -> tuple[output.Cell, ...]:
    """Under GROUP_COLUMNS: the sums over its topics, the oldest lag of all."""
    topics = group.topics
    return (
        group.name,
        len(topics),
        sum(topic.lag_messages for topic in topics),
        output.duration(max((topic.lag_ms for topic in topics), default=0)),
        sum(topic.leased for topic in topics),
        sum(topic.ready for topic in topics),
        sum(topic.waiting_polls for topic in topics),
        len(group.clients),
        " ".join(flag for flag in GROUP_FLAG_WORDS if getattr(group, flag)) or "-",
    )


def group_topic_row(topic: "pb.GroupTopic") -> tuple[output.Cell, ...]:
    """Under GROUP_TOPIC_COLUMNS."""
    lag = output.duration(topic.lag_ms)
    return topic.topic, topic.lag_messages, lag, topic.leased, topic.ready, topic.waiting_polls


def place_row(topic: str, place: "pb.Place") -> tuple[output.Cell, ...]:
    """Under PLACE_COLUMNS."""
    return topic, place.queue_id, place.committed_offset, place.next_offset, place.max_offset, place.open


def lease_row(topic: str, lease: "pb.Lease") -> tuple[output.Cell, ...]:
    """Under LEASE_COLUMNS."""
    due = output.moment(lease.due_ms) or "ready"
    return topic, lease.queue_id, lease.offset, lease.attempt, due, lease.client_id, lease.message_id


def client_document(client: "pb.Client") -> dict[str, Any]:
    """One client."""
    return {
        "client_id": client.client_id,
        "type": client.type,
        "language": client.language,
        "version": client.version,
        "peer": client.peer,
        "groups": list(client.groups),
        "subscriptions": dict(sorted(client.subscriptions.items())),
        "topics": list(client.topics),
        "silent_ms": client.silent_ms,
        "stream": client.stream,
        "leases": client.leases,
    }


def client_row(client: "pb.Client") -> tuple[output.Cell, ...]:
    """Under CLIENT_COLUMNS: `orders(a||b)` is a subscription with its filter, `orders` a topic that it publishes."""
    topics = [*_subscriptions(client.subscriptions), *client.topics]
    return (
        client.client_id,
        client.type,
        f"{client.language} {client.version}".strip(),
        client.peer,
        " ".join(client.groups),
        " ".join(topics),
        output.duration(client.silent_ms),
        "open" if client.stream else "-",
        client.leases,
    )


def _subscriptions(subscriptions: Mapping[str, str]) -> list[str]:
    return [name if wanted in ("", "*") else f"{name}({wanted})" for name, wanted in sorted(subscriptions.items())]


def message_document(message: "pb.Message") -> dict[str, Any]:
    """One message; a compressed body is opened where that works, `body_bytes` is what is stored."""
    return {
        "topic": message.topic,
        "queue_id": message.queue_id,
        "offset": message.offset,
        "message_id": message.message_id,
        "tag": message.tag,
        "keys": list(message.keys),
        "properties": dict(sorted(message.properties.items())),
        "system": dict(sorted(message.system.items())),
        **output.body_fields(body_of(message)),
        "body_bytes": len(message.body),
        "compressed": message.compressed,
        "born_ms": message.born_ms,
        "born_host": message.born_host,
        "stored_ms": message.stored_ms,
        "attempt": message.attempt,
    }


def body_of(message: "pb.Message") -> bytes:
    """The body as its sender wrote it: clients label both gzip and zlib as GZIP. As stored where it is neither."""
    if not message.compressed:
        return message.body
    opener = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, by the first bytes
    try:
        opened = opener.decompress(message.body, BODY_BYTES_MAX)
    except zlib.error:
        return message.body
    return opened if opener.eof else message.body


def message_row(message: "pb.Message") -> tuple[output.Cell, ...]:
    """Under MESSAGE_COLUMNS."""
    return (
        output.moment(message.stored_ms),
        message.queue_id,
        message.offset,
        message.message_id,
        message.tag,
        " ".join(message.keys),
        output.body_shown(body_of(message)),
    )
