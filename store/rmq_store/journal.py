"""The journal: what changes besides messages, as records in the same log. One record a loop turn, a list of entries.

Record: V1, topic `rmq_sys_rmq_journal`, queue 0, queue offset 0, transaction type rollback: Apache builds neither queue
nor index entries from it (facts: store.md 2.5). Body: byte 0 the journal's version (1), then a msgpack array of
entries, each an array that starts with its tag. Entries are absolute: applying one twice is the same as once.
"""

import msgspec

TOPIC = b"rmq_sys_rmq_journal"
TOPIC_TEXT = TOPIC.decode()
VERSION = 1
BODY_BYTES_MAX = 256 << 10  # a record's body; a turn with more writes several records


class TopicPut(msgspec.Struct, array_like=True, tag="t", frozen=True):
    """A topic as it is from now on. `kind` is the number of rmq.message.MessageType, opaque here."""

    name: str
    kind: int
    queues: int


class QueueEnds(msgspec.Struct, array_like=True, tag="q", frozen=True):
    """Part of the repeated state: where each queue of a topic ends. Offsets go on although all messages went."""

    topic: str
    ends: list[int]


class TopicDrop(msgspec.Struct, array_like=True, tag="T", frozen=True):
    """A topic is deleted, with its queues and every group's place in them."""

    name: str


class GroupPut(msgspec.Struct, array_like=True, tag="g", frozen=True):
    """A consumer group as it is from now on; the retry policy's fields are opaque here.

    `orderly`: what has no message group is in order per queue (4.x: consumeMessageOrderly). What follows it is opaque
    here, too.
    """

    name: str
    attempts_max: int
    steps_ms: tuple[int, ...]
    initial_ms: int
    max_ms: int
    multiplier: float
    orderly: bool = False
    lite_exclusive: bool = False
    lite_reset_on_takeover: bool = False
    lite_reset_on_unsubscribe: bool = False


class GroupDrop(msgspec.Struct, array_like=True, tag="G", frozen=True):
    """A group is deleted, with its places and leases."""

    name: str


class Cursors(msgspec.Struct, array_like=True, tag="c", frozen=True):
    """The next offset to deliver, per queue: (queue id, next).

    `settles`: a client or an operator said so: whatever lies before is settled, whoever had it or had it not.
    """

    group: str
    topic: str
    nexts: list[tuple[int, int]]
    settles: bool = False


class Leased(msgspec.Struct, array_like=True, tag="l", frozen=True):
    """One receive, or a lease that moves along with its message.

    Parts: (queue id, next offset afterwards, offsets each less the one before, attempts or [] if all are 1).
    """

    group: str
    topic: str
    sequence: int
    taken_ms: int
    due_ms: int
    client: str  # "" unless the server renews the lease while this client lives
    parts: list[tuple[int, int, list[int], list[int]]]
    asked: int = 0  # hash of who asked with which attempt id, where that has a say


class Grouped(msgspec.Struct, array_like=True, tag="m", frozen=True):
    """The cursor passed messages that have a message group: each is delivered after those of its group before it.

    Comes before the entry that moves the cursor (Leased or Cursors). A crash between the two: the cursor passes them
    again. Parts: (queue id, offsets each less the one before, keys of their message groups: lines.py).
    """

    group: str
    topic: str
    parts: list[tuple[int, list[int], list[int]]]


class Acked(msgspec.Struct, array_like=True, tag="a", frozen=True):
    """Settled for the group: never to be delivered again (behind others of its message group: once these are settled).

    Parts: (queue id, offsets).
    """

    group: str
    topic: str
    parts: list[tuple[int, list[int]]]


class Extended(msgspec.Struct, array_like=True, tag="e", frozen=True):
    """One lease ends at another time, under a new sequence; `attempt` is the number of deliveries that count.

    Sequence 0: nobody has the message any more. Leases end without a word in the journal; this one says so where what
    follows depends on it, the times are of no account then.
    """

    group: str
    topic: str
    queue_id: int
    offset: int
    sequence: int
    taken_ms: int
    due_ms: int
    attempt: int


class TimerEnded(msgspec.Struct, array_like=True, tag="d", frozen=True):
    """A delayed message that was to be delivered at `due_ms` never will be: recalled, cancelled, or nowhere to go.

    `number`: its first one, see timers.py. An answer to a recall waits until this entry is safe.
    """

    number: int
    due_ms: int


class TimersFired(msgspec.Struct, array_like=True, tag="f", frozen=True):
    """Part of the repeated state: the latest due time of a delayed message that was delivered."""

    due_ms: int


class HalfChecked(msgspec.Struct, array_like=True, tag="h", frozen=True):
    """A producer was asked about a half message, for the `checks`th time; the next time is at `due_ms`, 0: never.

    `number`: its first one, see halves.py.
    """

    number: int
    due_ms: int
    checks: int


class HalfEnded(msgspec.Struct, array_like=True, tag="H", frozen=True):
    """A half message was rolled back. (A committed one is named by the real message, RMQ_ORIGIN.)"""

    number: int


class HalfOutcomes(msgspec.Struct, array_like=True, tag="o", frozen=True):
    """Part of the repeated state: how half messages ended. See outcomes.py."""

    chunk: int
    ends: bytes


class LitesPut(msgspec.Struct, array_like=True, tag="L", frozen=True):
    """Lite topics are there, although nothing was sent to them yet; or, as part of the repeated state, still.

    Each: (name, queue id, how many messages it had before, wall time ms of the last one or of its making).
    """

    topic: str
    lites: list[tuple[str, int, int, int]]


class LitesDropped(msgspec.Struct, array_like=True, tag="x", frozen=True):
    """Lite topics, by key (lites.py), are no more, nor is anyone's place in them."""

    keys: list[int]


class LitePlaces(msgspec.Struct, array_like=True, tag="p", frozen=True):
    """The group reads a parent topic by its lite topics, and goes on at these queue offsets: (key, next).

    Comes behind the entry that leases what lies before. A crash between the two: it is delivered twice. `settles`: a
    client said so, as for Cursors.
    """

    group: str
    topic: str
    places: list[tuple[int, int]]
    settles: bool = False


class LiteSubscribed(msgspec.Struct, array_like=True, tag="u", frozen=True):
    """A client of a group subscribes lite topics, and others no more; by key."""

    group: str
    topic: str
    client: str
    added: list[int]
    removed: list[int]


class Started(msgspec.Struct, array_like=True, tag="s", frozen=True):
    """The store was opened for the `number`th time: part of every receipt handle's sequence."""

    number: int


class StateEnd(msgspec.Struct, array_like=True, tag="z", frozen=True):
    """All topics, groups and cursors have been repeated since the segment at `base` began."""

    base: int


Change = (
    TopicPut
    | QueueEnds
    | TopicDrop
    | GroupPut
    | GroupDrop
    | Cursors
    | Leased
    | Grouped
    | Acked
    | Extended
    | TimerEnded
    | TimersFired
    | HalfChecked
    | HalfEnded
    | HalfOutcomes
    | LitesPut
    | LitesDropped
    | LitePlaces
    | LiteSubscribed
    | Started
    | StateEnd
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Change])


class UnknownJournal(Exception):  # noqa: N818  # says what the entry is
    """Written by a newer version."""


def lease_part(queue_id: int, next_offset: int, rows: list[tuple[int, int]]) -> tuple[int, int, list[int], list[int]]:
    """A part of Leased; `rows` are (offset, attempt) of the messages."""
    rows = sorted(rows)
    attempts = [attempt for _, attempt in rows]
    if all(attempt == 1 for attempt in attempts):
        attempts = []
    return queue_id, next_offset, steps([offset for offset, _ in rows]), attempts


def steps(offsets: list[int]) -> list[int]:
    """Rising offsets, each less the one before."""
    return [offset - before for before, offset in zip([0, *offsets], offsets, strict=False)]


def encode(changes: list[Change], bytes_max: int = BODY_BYTES_MAX) -> list[bytes]:
    """Record bodies, each of at most `bytes_max` unless a single entry is larger."""
    body = bytes((VERSION,)) + _encoder.encode(changes)
    if len(body) <= bytes_max or len(changes) == 1:
        return [body]
    half = len(changes) // 2
    return encode(changes[:half], bytes_max) + encode(changes[half:], bytes_max)


def decode(body: bytes) -> list[Change]:
    """The reverse. Raises UnknownJournal: the record's checksum has been checked, so it is a newer writer's."""
    try:
        if body[0] != VERSION:
            raise UnknownJournal(f"journal version {body[0]}")
        return _decoder.decode(memoryview(body)[1:])
    except (msgspec.DecodeError, IndexError) as error:
        raise UnknownJournal(str(error)) from None
