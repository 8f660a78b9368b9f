"""What the admin service may ask of the broker in this process, beside BrokerPort: tables to look at and to change.

Plain data. Names are stored names; times are milliseconds since 1970 unless said otherwise. Mistakes are ClientErrors.
"""

import asyncio
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from rmq.config import AS_IS, GroupFlags
from rmq.filter import ALL, Filter
from rmq.message import MessageType
from rmq.port import Answer
from rmq.retry import RetryPolicy


class QueueRange(msgspec.Struct):
    """Offsets [min_offset, max_offset) of one queue can be read."""

    queue_id: int
    min_offset: int
    max_offset: int


class TopicInfo(msgspec.Struct):
    """One topic, and the groups that have a place in it."""

    name: str
    type: MessageType
    queues: Sequence[QueueRange]
    groups: Sequence[str]


class Place(msgspec.Struct):
    """A group's place in one queue: below `committed_offset` all is settled, from `next_offset` on all is untouched."""

    queue_id: int
    next_offset: int
    committed_offset: int
    max_offset: int
    open: int


class OpenInfo(msgspec.Struct):
    """One open message. `due_ms` 0: ready to be delivered again; `client_id`: whose lease the server renews."""

    queue_id: int
    offset: int
    attempt: int
    due_ms: int
    client_id: str
    message_id: str


class GroupTopicInfo(msgspec.Struct):
    """One group on one topic; `lag_ms` is the age of the oldest message that was never delivered."""

    topic: str
    lag_messages: int
    lag_ms: int
    leased: int
    ready: int
    waiting_polls: int
    places: Sequence[Place]
    open: Sequence[OpenInfo]


class GroupInfo(msgspec.Struct):
    """One group; `clients`: consumers that live."""

    name: str
    attempts_max: int
    retry: RetryPolicy
    topics: Sequence[GroupTopicInfo]
    clients: Sequence[str]
    flags: GroupFlags = AS_IS


class StoreInfo(msgspec.Struct):
    """The store in numbers; positions are bytes of the commit log.

    Since the start: `damaged` places of it were found, `set_aside_bytes` of an unfinished record kept in lost+found.
    """

    log_begin: int
    log_end: int
    log_safe: int
    disk_free_bytes: int
    topics: int
    groups: int
    open_messages: int
    waiting_polls: int
    damaged: int
    set_aside_bytes: int


class Kept(msgspec.Struct):
    """A message as it is stored. `attempt` counts the deliveries that the stored record already knows of."""

    topic: str
    queue_id: int
    offset: int
    position: int
    body: bytes
    properties: dict[str, str]
    sys_flag: int
    born_ms: int
    born_host: str
    store_ms: int
    attempt: int


class Timer(msgspec.Struct):
    """A delayed message that waits for `due_ms`. `message.topic` is where it goes, its position where it lies now."""

    number: int
    due_ms: int
    message: Kept


class TransactionState(enum.Enum):
    """Of a transaction that has not ended."""

    CHECKED = "checked"  # its producer is asked, now and then
    WAITING = "waiting"  # for a producer of its topic
    PARKED = "parked"  # nobody is asked any more


class Transaction(msgspec.Struct):
    """A transaction that has not ended. `due_ms`: of its next check, lease time; 0: none is planned.

    `message`: as in Timer; None where it is lost.
    """

    number: int
    topic: str
    state: TransactionState
    checks: int
    due_ms: int
    message: Kept | None


class Start(msgspec.Struct, frozen=True):
    """Where reading begins: `offsets` by queue id, or for all queues a time, the begin or the end.

    Queues that `offsets` does not name are not read; with `rest` they are, from their begin: they are new.
    """

    offsets: Mapping[int, int] | None = None
    time_ms: int | None = None
    end: bool = False
    rest: bool = False


class Page(msgspec.Struct):
    """Messages in the order in which they were stored, and by queue where to go on."""

    messages: Sequence[Kept]
    next: Mapping[int, int]


class Holding(msgspec.Struct):
    """What one group has made of a message: WAITING, PARKED, LEASED, READY, ACKED or SETTLED; proto/rmq/admin.proto
    says what that means.

    `leased_ms` and `due_ms` (lease time) are of the lease, `client_id` is who the server renews it for.
    """

    group: str
    state: str
    attempt: int = 0
    leased_ms: int = 0
    due_ms: int = 0
    client_id: str = ""


class Whereabouts(msgspec.Struct):
    """Of one stored copy: the topic that it was sent to, when it is due if it waits for its time (else 0), groups."""

    sent_to: str
    due_ms: int
    groups: Sequence[Holding]


class AdminPort(Protocol):
    """Raises ClientError TOPIC_NOT_FOUND and CONSUMER_GROUP_NOT_FOUND where a name is not there."""

    def describe(self) -> StoreInfo:
        """The store in numbers."""

    def topics(self) -> Iterable[TopicInfo]:
        """All, by name; each is looked at when it is asked for, so one that is deleted meanwhile is left out."""

    def topic(self, name: str) -> TopicInfo:
        """One."""

    def put_topic(self, name: str, kind: MessageType | None, queues: int) -> Answer[TopicInfo]:
        """Makes or changes one; None and 0 leave what is there, or take the default. Queues only grow (BAD_REQUEST)."""

    def delete_topic(self, name: str) -> Answer[None]:
        """With its messages' index, every group's place in it, and the polls that wait on it."""

    def groups(self) -> Iterable[GroupInfo]:
        """All, by name, without their open messages; as topics."""

    def group_info(self, name: str, *, open_max: int = 0) -> GroupInfo:
        """One, with up to `open_max` open messages of each topic."""

    def renewed(self, group: str, client_id: str) -> int:
        """How many leases the server renews for this client; 0 where there is no such group or client."""

    def put_group(
        self, name: str, attempts_max: int, retry: RetryPolicy | None, flags: GroupFlags = AS_IS
    ) -> Answer[GroupInfo]:
        """Makes or changes one; 0 and None leave what is there, or take the default."""

    def delete_group(self, name: str) -> Answer[None]:
        """With its places, leases and waiting polls; its dead letters stay."""

    def reset_offset(self, group: str, topic: str, start: Start) -> Answer[GroupInfo]:
        """The group goes on from there in every queue; what it holds or was to get again is settled."""

    def peek(self, topic: str, start: Start, limit: int, wanted: Filter = ALL) -> Page:
        """Reads without taking anything from anyone; bounded work, so a page may be short and have more behind it."""

    def watch(self, topic: str) -> "asyncio.Future[None]":
        """Resolves when the topic next has a new message to read."""

    def find(self, topic: str, *, message_id: str = "", key: str = "", limit: int = 32) -> Answer[Sequence[Kept]]:
        """By id or by key, the newest first; up to 4 MiB of bodies, one at least.

        An id is looked for in the topic and, for messages of it, among its groups' retries and dead letters too.
        Cancelling the Future ends the search. Raises BAD_REQUEST and TOO_MANY_REQUESTS.
        """

    def copies(self, message_id: str, topic: str) -> Answer[Sequence[Kept]]:
        """Wherever the message is stored, in the server's own topics too, the newest first; up to 100, and up to 16 MiB
        of bodies. `topic`: that it was sent to; empty: any. Else as find; raises BAD_REQUEST for too many topics.
        """

    def whereabouts(self, copy: Kept) -> Whereabouts:
        """What is known now of one of `copies`."""

    def dead_letters(self, group: str, limit: int) -> Page:
        """Those that were not replayed yet, the oldest first."""

    def replay(self, group: str, message_ids: Sequence[str]) -> Answer[int]:
        """Delivers dead letters again, to this group alone, as new; no ids: all that were not replayed yet.

        Returns how many are with the group now. Raises TOPIC_NOT_FOUND where the topic that they died in was deleted.
        """

    def timers(self, topic: str, limit: int) -> Iterable[Timer]:
        """Delayed messages that wait, of one topic or (empty) of all, the earliest first; each is looked at when it is
        asked for. Of one topic: those among the first 10,000 of all.
        """

    def timer(self, number: int) -> Timer:
        """One. Raises NOT_FOUND where it does not wait, or never was."""

    def cancel_timer(self, number: int) -> Answer[None]:
        """It will never be delivered. Raises as timer."""

    def transactions(self, topic: str, limit: int, *, parked: bool) -> Iterable[Transaction]:
        """Transactions that have not ended, or of those the parked ones; of one topic or (empty) of all, in order of
        sending. Each is looked at when it is asked for. Of one topic: those among the first 10,000 of all.
        """

    def transaction(self, number: int) -> Transaction:
        """One. Raises NOT_FOUND where it has ended, or never was."""

    def end_transaction(self, number: int, *, commit: bool) -> Answer[None]:
        """As its producer would. Raises as transaction, and NOT_FOUND where it can only be rolled back."""

    def advance(self, ms: int) -> Answer[int]:
        """Moves the clock, does all that is due before it returns; the new wall time, once that is safe and can be
        received. Raises BAD_REQUEST without --manual-clock.
        """

    def reset(self) -> Answer[None]:
        """Deletes every topic and group but those of the configuration. Raises BAD_REQUEST outside flush memory."""
