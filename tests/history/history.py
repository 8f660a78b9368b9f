"""What clients asked of a server and what came of it: each operation, its times and its outcome. No judgement.

Times are milliseconds of the wall clock that server and clients share (tests that own the clock: of that clock). A
history is complete when its last client has drained every topic for every group, acknowledging all that came, and, with
`auditors`, every dead letter topic too. What is promised about it is checker.py's.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

DLQ = "%DLQ%"
Place: TypeAlias = tuple[str, int, int]  # topic, queue id, queue offset


class Outcome(enum.Enum):
    """UNKNOWN: the call was cut off, the server may or may not have done it."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Message:
    """What a sender wrote and every receiver must see again. `digest` stands for the body."""

    digest: bytes
    tag: str = ""
    keys: str = ""
    message_group: str = ""
    priority: int = -1


@dataclass(frozen=True, slots=True)
class Send:
    """One message given to the server; `key` is its message id, used once.

    `deliver_ms`: not before then, 0 for at once. `half`: nothing to anyone until an End commits it.
    """

    key: str
    topic: str
    message: Message
    began_ms: int
    ended_ms: int
    outcome: Outcome
    deliver_ms: int = 0
    half: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message received by a call of number `call`. `served_ms`: the answer's delivery_timestamp, 0: cut off before.

    `place` names the topic that was received from: that of a dead letter is %DLQ% and the group that gave up.
    """

    group: str
    key: str
    message: Message
    place: Place
    call: int
    attempt: int
    began_ms: int
    served_ms: int
    ended_ms: int
    invisible_ms: int

    @property
    def seen_ms(self) -> int:
        """When it had surely been handed out: no earlier than the server says, no later than the client had it."""
        return self.served_ms or self.ended_ms


@dataclass(frozen=True, slots=True)
class Ack:
    """One receipt handle given back: settled."""

    group: str
    key: str
    began_ms: int
    ended_ms: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Change:
    """A client asked for another end of its lease, `invisible_ms` from then."""

    group: str
    key: str
    invisible_ms: int
    began_ms: int
    ended_ms: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Bury:
    """A client asked for a dead letter."""

    group: str
    key: str
    began_ms: int
    ended_ms: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class End:
    """The outcome that a producer gave a half message."""

    key: str
    commit: bool
    began_ms: int
    ended_ms: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Recall:
    """A delayed message taken back before its time."""

    key: str
    began_ms: int
    ended_ms: int
    outcome: Outcome


@dataclass(slots=True)
class History:
    """All that happened, deliveries of a call in the order of its answer, all else in any order.

    `groups` receive from every topic. `kills`: when a process was known to be dead. `cut_off`: (group, topic) of each
    receive whose answer may have been lost. `attempts_max` and `late_ms_max` are the server's promises, 0 for none.
    `priorities`: how many each topic has, 0 where none has any; every `lower_nth` message may be a lower one.
    """

    groups: Sequence[str]
    attempts_max: int = 0
    late_ms_max: int = 0
    priorities: int = 0
    lower_nth: int = 0
    sends: list[Send] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    burials: list[Bury] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    recalls: list[Recall] = field(default_factory=list)
    kills: list[int] = field(default_factory=list)
    cut_off: list[tuple[str, str]] = field(default_factory=list)
