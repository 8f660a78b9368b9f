"""What clients saw of a server that was killed again and again, and which promises it broke. Pure: no clock, no I/O.

A history is complete when its last client has drained every topic for every group, acknowledging all that came. Times
are milliseconds of the wall clock that server and clients share. What is promised (issue 4 and facts
users-and-peers.md 5b): an acknowledged send comes to every group until that group has acknowledged it; nothing comes
that was not sent, or was refused, or with another body; no message is stored twice; a settled message stays settled;
a leased one stays invisible; a delayed one does not come before its time, a recalled one never. A lease may be lost in
a kill: that is only a redelivery.
"""

import enum
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias


class Outcome(enum.Enum):
    """UNKNOWN: the call was cut off, the server may or may not have done it."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Send:
    """One message given to the server; `key` is its message id, used once. `due_ms`: 0 unless it is delayed."""

    key: str
    topic: str
    digest: bytes
    began_ms: int
    ended_ms: int
    outcome: Outcome
    due_ms: int = 0


@dataclass(frozen=True, slots=True)
class Recall:
    """A delayed message called back by its sender."""

    key: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message received. `served_ms`: the answer's delivery_timestamp; `began_ms` where the answer was cut off."""

    group: str
    key: str
    digest: bytes
    place: tuple[str, int, int]  # topic, queue id, queue offset
    began_ms: int
    served_ms: int
    ended_ms: int
    invisible_ms: int


@dataclass(frozen=True, slots=True)
class Ack:
    """One receipt handle given back."""

    group: str
    key: str
    began_ms: int
    ended_ms: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Release:
    """A client asked for an earlier redelivery: from then on the lease may be over."""

    group: str
    key: str
    began_ms: int


@dataclass(slots=True)
class History:
    """All that happened, each list in any order. `kills`: when a process was killed."""

    groups: Sequence[str]
    sends: list[Send] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    kills: list[int] = field(default_factory=list)
    recalls: list[Recall] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken promise: `kind` names it, `text` tells the case."""

    kind: str
    key: str
    text: str


LOST, PHANTOM, CHANGED, DOUBLED, UNDONE, LEASED = "lost", "phantom", "changed", "doubled", "undone", "leased"
EARLY, RECALLED = "early", "recalled"
Pair: TypeAlias = tuple[str, str]  # group, key


def check(history: History) -> list[Problem]:
    """Every broken promise, those of a kind together."""
    return [
        *_lost(history),
        *_phantom_or_changed(history),
        *_doubled(history),
        *_undone(history),
        *_while_leased(history),
        *_early(history),
        *_recalled(history),
    ]


def _lost(history: History) -> Iterator[Problem]:
    """After the drain each group has settled each acknowledged send that was not recalled, or may have in a call that
    was cut off.
    """
    settled = {(a.group, a.key) for a in history.acks if a.outcome is not Outcome.FAILED}
    seen = {(d.group, d.key) for d in history.deliveries}
    recalled = {recall.key for recall in history.recalls if recall.outcome is not Outcome.FAILED}
    for send in history.sends:
        expected = send.outcome is Outcome.OK and send.key not in recalled
        for group in history.groups if expected else ():
            if (group, send.key) not in settled:
                how = "came, but not again after the last failure" if (group, send.key) in seen else "never came"
                yield Problem(LOST, send.key, f"acknowledged at {send.ended_ms}, {how} to group {group}: {send}")


def _phantom_or_changed(history: History) -> Iterator[Problem]:
    sends = {send.key: send for send in history.sends}
    for delivery in history.deliveries:
        send = sends.get(delivery.key)
        if send is None:
            yield Problem(PHANTOM, delivery.key, f"nobody sent it: {delivery}")
        elif send.outcome is Outcome.FAILED:
            yield Problem(PHANTOM, delivery.key, f"its send was refused: {delivery}")
        elif (send.topic, send.digest) != (delivery.place[0], delivery.digest):
            yield Problem(CHANGED, delivery.key, f"another topic or body than sent: {delivery}, {send}")


def _doubled(history: History) -> Iterator[Problem]:
    """A message has one place, whatever group it comes to, before and after every restart."""
    places: dict[str, set[tuple[str, int, int]]] = defaultdict(set)
    keys: dict[tuple[str, int, int], set[str]] = defaultdict(set)
    for delivery in history.deliveries:
        places[delivery.key].add(delivery.place)
        keys[delivery.place].add(delivery.key)
    for key, found in places.items():
        if len(found) > 1:
            yield Problem(DOUBLED, key, f"stored at {sorted(found)}")
    for place, there in keys.items():
        if len(there) > 1:
            yield Problem(DOUBLED, min(there), f"{place} held one after the other {sorted(there)}")


def _undone(history: History) -> Iterator[Problem]:
    settled_ms: dict[Pair, int] = {}
    for ack in history.acks:
        if ack.outcome is Outcome.OK:
            pair = (ack.group, ack.key)
            settled_ms[pair] = min(ack.ended_ms, settled_ms.get(pair, ack.ended_ms))
    for delivery in history.deliveries:
        ended_ms = settled_ms.get((delivery.group, delivery.key))
        if ended_ms is not None and delivery.served_ms > ended_ms:
            yield Problem(UNDONE, delivery.key, f"settled at {ended_ms}, delivered again: {delivery}")


def _while_leased(history: History) -> Iterator[Problem]:
    deliveries: dict[Pair, list[Delivery]] = defaultdict(list)
    releases: dict[Pair, list[int]] = defaultdict(list)
    for delivery in history.deliveries:
        deliveries[delivery.group, delivery.key].append(delivery)
    for release in history.releases:
        releases[release.group, release.key].append(release.began_ms)
    for pair, all_of_one in deliveries.items():
        for first, second in pairwise(sorted(all_of_one, key=lambda d: d.ended_ms)):
            excuses = [*history.kills, *releases.get(pair, ())]
            excused = any(first.began_ms <= ms <= second.ended_ms for ms in excuses)
            if second.ended_ms < first.began_ms + first.invisible_ms and not excused:
                yield Problem(LEASED, pair[1], f"leased, and delivered again: {first}, {second}")


def _early(history: History) -> Iterator[Problem]:
    due_ms = {send.key: send.due_ms for send in history.sends}
    for delivery in history.deliveries:
        if delivery.ended_ms < due_ms.get(delivery.key, 0):
            yield Problem(EARLY, delivery.key, f"due at {due_ms[delivery.key]} only: {delivery}")


def _recalled(history: History) -> Iterator[Problem]:
    recalled = {recall.key for recall in history.recalls if recall.outcome is Outcome.OK}
    for delivery in history.deliveries:
        if delivery.key in recalled:
            yield Problem(RECALLED, delivery.key, f"recalled, and delivered: {delivery}")
