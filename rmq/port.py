"""The two narrow interfaces between proxy and broker. Local mode: rmq.broker.Broker; Cluster mode: a remote one later.

A verb is a plain function: it changes state at once and returns its result, or a Future when the result has to wait
(for an fsync, for a message to come, or, in Cluster mode, for the network). A caller's mistake is raised as
ClientError, or is the Future's exception. Topic and group names are stored names (`ns%name`); receipt handles are
opaque to the caller.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, TypeVar

import msgspec

from rmq.errors import ClientError
from rmq.filter import Filter
from rmq.message import Delivered, MessageType, Outgoing, SendResult
from rmq.retry import RetryPolicy
from rmq_store import later

T = TypeVar("T")
Answer: TypeAlias = T | asyncio.Future[T]
Later = later.Later
"""What those are that wait for the log, and more: whoever chains on it saves turns of the loop."""


class BrokerQueues(msgspec.Struct):
    """One broker's part of a topic's route: queue ids count up from 0."""

    broker: str
    read_queues: int
    write_queues: int
    readable: bool
    writable: bool
    accepts: tuple[MessageType, ...]


class GroupView(msgspec.Struct):
    """What a consumer's settings are filled from. `attempts_max` counts deliveries, the first included.

    `fifo`: several messages of one message group may come in one receive, and are to be consumed in order.
    """

    fifo: bool
    attempts_max: int
    retry: RetryPolicy


class ReceiveRequest(msgspec.Struct, gc=False):
    """One pop. `invisible_ms` is ignored with `auto_renew`; `poll_ms` = 0 answers at once.

    `attempt_id`: asked again with the same one, a client gets the same messages of message groups again, as long as it
    has acknowledged none of that answer and none has expired. `fifo`: the client was told so; to others one receive
    gives at most one message of each message group. `lite`: only of the lite topics that the client subscribes.
    """

    group: str
    topic: str
    client_id: str
    filter: Filter
    batch: int
    invisible_ms: int
    poll_ms: int
    auto_renew: bool = False
    attempt_id: str = ""
    fifo: bool = False
    lite: bool = False


class LiteStart(msgspec.Struct, frozen=True):
    """Where a group goes on in a lite topic. last: where it was, behind the last message if it never was there; min,
    max: the first message kept, the next one to come; offset: the message of that number, counted from the lite topic's
    first; tail: so many before the next one to come; time: the first one stored at that wall time (ms) or later.
    """

    kind: Literal["last", "min", "max", "offset", "tail", "time"] = "last"
    value: int = 0


LiteAction: TypeAlias = Literal["add", "remove", "replace"]


class LiteSync(msgspec.Struct):
    """What one client subscribes of a parent topic changes: these lite topics too, or no more, or only these.

    `version`: of two calls that pass each other the later one counts; None for a client that does not count.
    """

    group: str
    topic: str
    client_id: str
    action: LiteAction
    names: Sequence[str]
    start: LiteStart = LiteStart()
    version: int | None = None


class PullRequest(msgspec.Struct, gc=False):
    """Reads one queue from an offset on. `poll_ms` = 0 answers at once."""

    group: str
    topic: str
    queue_id: int
    offset: int
    filter: Filter
    batch: int
    poll_ms: int


class Pulled(msgspec.Struct):
    """What a pull found, without handles, and the offset behind the last message that it looked at."""

    messages: Sequence[Delivered]
    next_offset: int


class BrokerPort(Protocol):
    """What the proxy may call."""

    def route(self, topic: str) -> Answer[Sequence[BrokerQueues]]:
        """Raises ClientError TOPIC_NOT_FOUND."""

    def assignment(self, group: str, topic: str) -> Answer[Sequence[BrokerQueues]]:
        """As route. The caller answers one queue of id -1 per broker, or all ids where it is FIFO for the group."""

    def group(self, group: str, topics: Collection[str] = ()) -> Answer[GroupView]:
        """For a consumer of `topics`, FIFO where each of them is. Raises CONSUMER_GROUP_NOT_FOUND, and TOPIC_NOT_FOUND
        for one of them, in profile strict; profile dev answers with defaults.
        """

    def message_type(self, topic: str) -> Answer[MessageType]:
        """The stored type, MIXED for a topic that profile dev has yet to make; raises TOPIC_NOT_FOUND in strict."""

    def send(self, messages: Sequence[Outgoing]) -> Answer[Sequence[SendResult]]:
        """Stores all of one topic's messages or none; results in request order."""

    def recall(self, topic: str, handle: str) -> Answer[str]:
        """A delayed message is never delivered; returns its id. Once more is OK. Raises PRECONDITION_FAILED when its
        time has passed, ILLEGAL_MESSAGE_ID for a handle that is not of this topic and broker.
        """

    def end_transaction(self, topic: str, transaction_id: str, commit: bool | None) -> Answer[None]:
        """True commits, False rolls back, None does nothing: it is not known yet. The same again is OK. Raises
        PRECONDITION_FAILED where it ended the other way, INVALID_TRANSACTION_ID for an id that is not of this topic
        and store, or is forgotten; NOT_FOUND where it cannot be committed any more.
        """

    def producing(self, topics: Collection[str]) -> None:
        """A producer of these topics is there: it can be asked about their transactions."""

    def receive(self, request: ReceiveRequest) -> Answer[Sequence[Delivered]]:
        """Leases messages; empty after `poll_ms` without any. Cancelling the Future leaves the poll."""

    def sync_lite(self, sync: LiteSync) -> Answer[None]:
        """A client's set of lite topics changes; all of it or nothing. The group reads the topic by its lite topics
        from now on. Raises LITE_SUBSCRIPTION_QUOTA_EXCEEDED, LITE_TOPIC_QUOTA_EXCEEDED, ILLEGAL_LITE_TOPIC,
        TOPIC_NOT_FOUND, CONSUMER_GROUP_NOT_FOUND, and MESSAGE_PROPERTY_CONFLICT_WITH_TYPE for a topic of another type.
        """

    def ack(self, group: str, topic: str, handles: Sequence[str]) -> Answer[Sequence[ClientError | None]]:
        """One entry per handle, in order: None for OK, else INVALID_RECEIPT_HANDLE."""

    def change_invisible(self, group: str, topic: str, handle: str, invisible_ms: int, *, suspend: bool) -> Answer[str]:
        """Visible again `invisible_ms` from now; returns the new handle, the old one is dead.

        `suspend`: the delivery does not count as an attempt. Raises INVALID_RECEIPT_HANDLE.
        """

    def dead_letter(self, group: str, topic: str, handle: str) -> Answer[None]:
        """Moves a leased message to %DLQ%group."""

    def pull(self, request: PullRequest) -> Answer[Pulled]:
        """Reads and takes nothing: no lease, no place of the group moves. Empty after `poll_ms` without a message that
        is wanted, but the offset may have moved on. Cancelling the Future leaves the poll.

        Raises OffsetError outside of what is kept, NOT_FOUND for a queue that the topic does not have.
        """

    def update_offset(self, group: str, topic: str, queue_id: int, offset: int) -> Answer[None]:
        """The group goes on from there: what lies before is settled, what lies behind is delivered, again or for the
        first time. Raises as pull.
        """

    def committed_offset(self, group: str, topic: str, queue_id: int) -> Answer[int]:
        """The oldest offset that the group has not settled. Raises OFFSET_NOT_FOUND where it has no place yet."""

    def query_offset(self, topic: str, queue_id: int, *, end: bool = False, time_ms: int | None = None) -> Answer[int]:
        """The first offset that can be read; with `end` the next message's; else that of the first message stored at
        `time_ms` or later, the next message's where there is none. Raises as pull.
        """

    def online(self, group: str, client_id: str, subscriptions: Mapping[str, Filter]) -> Answer[None]:
        """A consumer is there (again); its leases with auto-renew are kept. Profile dev creates what is missing,
        strict raises CONSUMER_GROUP_NOT_FOUND.
        """

    def offline(self, group: str, client_id: str) -> Answer[None]:
        """A consumer is gone: its auto-renewed messages become visible after 1 s."""


class ClientPort(Protocol):
    """What the broker may ask of clients; the proxy finds the client's stream."""

    def check_transaction(self, topic: str, message: Delivered, transaction_id: str) -> bool:
        """Asks one live producer of `topic` for the outcome, the next one for each `message.attempt`; False where none
        is there.
        """

    def verify(self, group: str, client_id: str, message: Delivered) -> "asyncio.Future[ClientError | None]":
        """Has one client consume `message` directly."""

    def stack(self, group: str, client_id: str) -> "asyncio.Future[str]":
        """One client's thread stack."""

    def unsubscribe_lite(self, client_id: str, lite_topic: str) -> None:
        """Tells a client that the server has ended its subscription; nothing happens where it has no stream."""
