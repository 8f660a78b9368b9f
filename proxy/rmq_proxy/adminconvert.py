"""Turns what the broker's tables say (rmq.adminport) and what is known of clients into the messages of rmq.admin.v1."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from rmq.adminport import (
    GroupInfo,
    GroupTopicInfo,
    Kept,
    OpenInfo,
    Page,
    StoreInfo,
    Timer,
    TopicInfo,
    Transaction,
    Whereabouts,
)
from rmq.message import BORN_HOST, KEYS, SYS_FLAG_COMPRESSED, TAGS, UNIQ_KEY, MessageType
from rmq_proto import admin as pb
from rmq_proto import v2
from rmq_proxy.caller import CLIENT_VERSION, LANGUAGE
from rmq_proxy.rpc import Call
from rmq_proxy.sessions import Client
from rmq_proxy.validate import RESERVED

MESSAGE_BYTES = 256
"""What a message's numbers and names take on the wire at the most, beside its body and properties."""

_SYSTEM = RESERVED - {UNIQ_KEY, TAGS, KEYS}
_CLIENT_TYPES = {number: name for name, number in v2.ClientType.items() if number}
_LANGUAGES = {number: name for name, number in v2.Language.items() if number}


class Facts(msgspec.Struct, frozen=True):
    """What does not change while the server runs. `data` is a path, empty in memory; `started_ms` is wall time."""

    version: str
    pid: int
    data: str
    flush: str
    profile: str
    started_ms: int
    manual_clock: bool


def server(facts: Facts, store: StoreInfo, clients: int, now_ms: int) -> pb.Server:
    """The server as it is now."""
    return pb.Server(clients=clients, now_ms=now_ms, **msgspec.structs.asdict(facts), **msgspec.structs.asdict(store))


def topic(info: TopicInfo) -> pb.Topic:
    """One topic; the type of a topic that has none yet is empty."""
    queues = [pb.Queue(id=q.queue_id, min_offset=q.min_offset, max_offset=q.max_offset) for q in info.queues]
    kind = "" if info.type is MessageType.UNSPECIFIED else info.type.name
    return pb.Topic(name=info.name, type=kind, queues=queues, groups=info.groups)


def group(info: GroupInfo, leases_max: int = 0) -> pb.Group:
    """One group with up to `leases_max` of its open messages."""
    made = pb.Group(name=info.name, attempts_max=info.attempts_max, retry_ms=info.retry.steps_ms, clients=info.clients)
    for name, value in info.flags.said().items():
        setattr(made, name, value)
    if not info.retry.steps_ms:
        made.backoff.initial_ms, made.backoff.max_ms = info.retry.initial_ms, info.retry.max_ms
        made.backoff.multiplier = info.retry.multiplier
    for one in info.topics:
        leases = one.open[:leases_max]
        leases_max -= len(leases)
        made.topics.append(_group_topic(one, leases))
    return made


def _group_topic(info: GroupTopicInfo, leases: Sequence[OpenInfo]) -> pb.GroupTopic:
    return pb.GroupTopic(
        topic=info.topic,
        lag_messages=info.lag_messages,
        lag_ms=info.lag_ms,
        leased=info.leased,
        ready=info.ready,
        waiting_polls=info.waiting_polls,
        places=[pb.Place(**msgspec.structs.asdict(place)) for place in info.places],
        leases=[pb.Lease(**msgspec.structs.asdict(lease)) for lease in leases],
    )


def page(found: Page) -> pb.PeekResponse:
    """Messages and where to go on."""
    return pb.PeekResponse(messages=map(message, found.messages), next=found.next)


def message(kept: Kept) -> pb.Message:
    """One message: what its sender gave it under `properties`, what has no field of its own under `system`."""
    stored = kept.properties
    return pb.Message(
        topic=kept.topic,
        queue_id=kept.queue_id,
        offset=kept.offset,
        message_id=stored.get(UNIQ_KEY, ""),
        tag=stored.get(TAGS, ""),
        keys=stored.get(KEYS, "").split(),
        properties={key: value for key, value in stored.items() if key not in RESERVED},
        system={key: value for key, value in stored.items() if key in _SYSTEM},
        body=kept.body,
        born_ms=kept.born_ms,
        stored_ms=kept.store_ms,
        born_host=stored.get(BORN_HOST) or kept.born_host,
        attempt=kept.attempt,
        compressed=bool(kept.sys_flag & SYS_FLAG_COMPRESSED),
    )


def copy(kept: Kept, where: Whereabouts) -> pb.Copy:
    """One place where a message is stored."""
    told = message(kept)
    told.ClearField("body")
    groups = [pb.Holding(**msgspec.structs.asdict(one)) for one in where.groups]
    return pb.Copy(message=told, body_bytes=len(kept.body), sent_to=where.sent_to, due_ms=where.due_ms, groups=groups)


def timers(found: Iterable[Timer], bytes_max: int) -> Iterator[pb.Timer]:
    """As many as fit into `bytes_max`, but one at least."""
    size = 0
    for count, timer in enumerate(found):
        size += message_bytes(timer.message)
        if count and size > bytes_max:
            return
        yield pb.Timer(number=timer.number, due_ms=timer.due_ms, message=message(timer.message))


def transactions(found: Iterable[Transaction], bytes_max: int) -> Iterator[pb.Transaction]:
    """As timers."""
    size = 0
    for count, one in enumerate(found):
        size += message_bytes(one.message) if one.message is not None else MESSAGE_BYTES
        if count and size > bytes_max:
            return
        kept = message(one.message) if one.message is not None else None
        yield pb.Transaction(
            number=one.number, topic=one.topic, state=one.state.value, checks=one.checks, due_ms=one.due_ms,
            message=kept,
        )  # fmt: skip


def message_bytes(kept: Kept) -> int:
    """About what `message` takes on the wire, rather more than less."""
    texts = sum(len(key) + len(value) + 8 for key, value in kept.properties.items())
    return len(kept.body) + MESSAGE_BYTES + 4 * texts  # a character takes up to 4 bytes


def within(found: Page, bytes_max: int) -> Page:
    """As many of the messages as fit, but one at least; what does not fit is read again by whoever goes on."""
    size = 0
    for count, kept in enumerate(found.messages):
        size += message_bytes(kept)
        if count and size > bytes_max:
            break
    else:
        return found
    offsets = dict(found.next)
    for kept in found.messages[count:]:
        offsets[kept.queue_id] = min(offsets.get(kept.queue_id, kept.offset), kept.offset)
    return Page(found.messages[:count], offsets)


def client(known: Client, stream: Call | None, now_s: float, leases: int) -> pb.Client:
    """One client; `stream` is the call of its Telemetry stream. What it has not said of itself stays empty."""
    settings = known.settings or v2.Settings()
    language, version = agent(settings, stream)
    return pb.Client(
        client_id=known.client_id,
        type=_CLIENT_TYPES.get(settings.client_type, ""),
        language=language,
        version=version,
        peer=stream.peer if stream else "",
        groups=sorted(known.groups),
        subscriptions=_subscriptions(known),
        topics=sorted(known.topics),
        silent_ms=round((now_s - known.seen_s) * 1000),
        stream=stream is not None,
        leases=leases,
    )


def agent(settings: v2.Settings, stream: Call | None) -> tuple[str, str]:
    """A client's language and version, as its settings say, else its stream's headers; empty where neither does."""
    language, version = settings.user_agent.language, settings.user_agent.version
    return (
        _LANGUAGES.get(language, "") or (stream.header(LANGUAGE) if stream else ""),
        version or (stream.header(CLIENT_VERSION) if stream else ""),
    )


def _subscriptions(known: Client) -> Mapping[str, str]:
    return {name: wanted.expression for filters in known.groups.values() for name, wanted in filters.items()}
