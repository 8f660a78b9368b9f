"""Which promises a history breaks. Pure: no clock, no I/O, the same history has the same problems.

What is promised (users-and-peers 5b): an acknowledged send, and any message that someone has seen, comes to every group
until that group has settled it; nothing comes that was not sent, or was refused, or otherwise than sent; a message has
one place; a settled one stays settled; a leased one stays invisible; a message group keeps its order; a higher priority
comes first, but for one message of so many; a timer is not early; a half message is seen only when committed; a dead
letter is made once, for a reason. Retention is not judged: nothing may be deleted unseen while a history is written. A
rule judges only what its history cannot excuse: a call that was cut off may have done what it was asked for.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

from tests.history.history import DLQ, Ack, Bury, Change, Delivery, History, Outcome, Place, Send

LOST, PHANTOM, CHANGED, DOUBLED, UNDONE, LEASED = "lost", "phantom", "changed", "doubled", "undone", "leased"
DISORDER, EARLY, LATE, HALF, RECALLED, DEAD = "disorder", "early", "late", "half", "recalled", "dead"
OUTRANKED = "outranked"
Pair: TypeAlias = tuple[str, str]  # group, key


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken promise: `kind` names it, `text` tells the case."""

    kind: str
    key: str
    text: str


class Index:
    """A history by message and group. A dead letter counts for the group that gave the message up."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.sends = {send.key: send for send in history.sends}
        self.deliveries: dict[Pair, list[Delivery]] = defaultdict(list)
        self.dead: dict[Pair, list[Delivery]] = defaultdict(list)
        for delivery in history.deliveries:
            topic = delivery.place[0]
            if topic.startswith(DLQ):
                self.dead[topic.removeprefix(DLQ), delivery.key].append(delivery)
            else:
                self.deliveries[delivery.group, delivery.key].append(delivery)
        self.burials = {(bury.group, bury.key): bury for bury in history.burials if bury.outcome is not Outcome.FAILED}

    @cached_property
    def settling_began_ms(self) -> dict[Pair, int]:
        """When each was first asked to be settled, in a call that may have done it; a dead letter: when it may
        have been made, after the last delivery that was seen.
        """
        began: dict[Pair, int] = {}
        asked = [(a.group, a.key, a.began_ms) for a in self.history.acks if a.outcome is not Outcome.FAILED]
        buried = [(group, key, bury.began_ms) for (group, key), bury in self.burials.items()]
        seen = [(*pair, max((d.began_ms for d in self.deliveries.get(pair, ())), default=0)) for pair in self.dead]
        for group, key, ms in [*asked, *buried, *seen]:
            began[group, key] = min(ms, began.get((group, key), ms))
        return began

    @cached_property
    def settled_ms(self) -> dict[Pair, int]:
        """From when on each was surely settled: an answer said so, or its dead letter was there."""
        settled: dict[Pair, int] = {}
        calls: list[Ack | Bury] = [*self.history.acks, *self.history.burials]
        told = [(call.group, call.key, call.ended_ms) for call in calls if call.outcome is Outcome.OK]
        seen = [(*pair, letter.ended_ms) for pair, letters in self.dead.items() for letter in letters]
        for group, key, ms in [*told, *seen]:
            settled[group, key] = min(ms, settled.get((group, key), ms))
        return settled

    @cached_property
    def changes(self) -> dict[Pair, list[Change]]:
        """Those that may have been done, in order."""
        changes: dict[Pair, list[Change]] = defaultdict(list)
        for change in sorted(self.history.changes, key=lambda change: change.began_ms):
            if change.outcome is not Outcome.FAILED:
                changes[change.group, change.key].append(change)
        return changes

    @cached_property
    def recalled(self) -> set[str]:
        """Those that may have been taken back."""
        return {recall.key for recall in self.history.recalls if recall.outcome is not Outcome.FAILED}

    @cached_property
    def commits(self) -> dict[str, int]:
        """When the first commit of each half message began that may have been done."""
        began: dict[str, int] = {}
        for end in self.history.ends:
            if end.commit and end.outcome is not Outcome.FAILED:
                began[end.key] = min(end.began_ms, began.get(end.key, end.began_ms))
        return began

    @cached_property
    def answered(self) -> list[int]:
        """When the calls began whose answer promised something, in order."""
        history = self.history
        calls: list[Send | Ack | Change | Bury] = [*history.sends, *history.acks, *history.changes, *history.burials]
        return sorted(call.began_ms for call in calls if call.outcome is Outcome.OK)

    def excuses(self, first: Delivery, second: Delivery) -> bool:
        """A kill may have taken the first one's lease: the log is a sequence, so not once a later call was answered."""
        after = bisect_right(self.answered, first.ended_ms)
        sure_ms = self.answered[after] if after < len(self.answered) else None
        kills = (ms for ms in self.history.kills if first.began_ms <= ms <= second.ended_ms)
        return any(sure_ms is None or sure_ms >= ms for ms in kills)


def check(history: History) -> list[Problem]:
    """Every broken promise, those of a kind together."""
    index = Index(history)
    return [problem for rule in RULES for problem in rule(index)]


def is_lost(history: History) -> bool:
    """Whether a drain has to go on: something is missing yet."""
    return next(_lost(Index(history)), None) is not None


def _lost(index: Index) -> Iterator[Problem]:
    """Each group has settled each message that must be there, or may have, in a call that was cut off."""
    for send in index.sends.values():
        for group in index.history.groups if _must_come(index, send) else ():
            pair = group, send.key
            if pair not in index.settling_began_ms:
                how = "came, but not again after the last failure" if pair in index.deliveries else "never came"
                yield Problem(LOST, send.key, f"{how} to group {group}: {send}")


def _must_come(index: Index, send: Send) -> bool:
    """Acknowledged, or seen by a group: what one was shown is there for all."""
    if send.key in index.recalled:
        return False
    if any((group, send.key) in index.deliveries for group in index.history.groups):
        return True
    if send.half:
        return any(end.commit and end.key == send.key and end.outcome is Outcome.OK for end in index.history.ends)
    return send.outcome is Outcome.OK


def _phantom_or_changed(index: Index) -> Iterator[Problem]:
    for delivery in index.history.deliveries:
        send = index.sends.get(delivery.key)
        if send is None:
            yield Problem(PHANTOM, delivery.key, f"nobody sent it: {delivery}")
        elif send.outcome is Outcome.FAILED:
            yield Problem(PHANTOM, delivery.key, f"its send was refused: {delivery}")
        elif send.message != delivery.message or delivery.place[0] not in (send.topic, *_dead_topics(index)):
            yield Problem(CHANGED, delivery.key, f"otherwise than sent: {delivery}, {send}")


def _dead_topics(index: Index) -> Iterable[str]:
    return [DLQ + group for group in index.history.groups]


def _doubled(index: Index) -> Iterator[Problem]:
    """A message has one place, whatever group it comes to, before and after every restart; so has a dead letter."""
    places: dict[Pair, set[Place]] = defaultdict(set)
    keys: dict[Place, set[str]] = defaultdict(set)
    for delivery in index.history.deliveries:
        places[delivery.place[0], delivery.key].add(delivery.place)
        keys[delivery.place].add(delivery.key)
    for (_, key), found in places.items():
        if len(found) > 1:
            yield Problem(DOUBLED, key, f"stored at {sorted(found)}")
    for place, there in keys.items():
        if len(there) > 1:
            yield Problem(DOUBLED, min(there), f"{place} held one after the other {sorted(there)}")


def _undone(index: Index) -> Iterator[Problem]:
    for pair, deliveries in index.deliveries.items():
        ended_ms = index.settled_ms.get(pair)
        for delivery in deliveries:
            if ended_ms is not None and max(delivery.served_ms, delivery.began_ms) > ended_ms:
                yield Problem(UNDONE, pair[1], f"settled at {ended_ms}, delivered again: {delivery}")


def _while_leased(index: Index) -> Iterator[Problem]:
    for history_of in (index.deliveries, index.dead):
        for pair, deliveries in history_of.items():
            by_group: dict[str, list[Delivery]] = defaultdict(list)
            for delivery in deliveries:
                by_group[delivery.group].append(delivery)
            for of_group in by_group.values():
                yield from _leased_twice(index, pair, of_group)


def _leased_twice(index: Index, pair: Pair, deliveries: list[Delivery]) -> Iterator[Problem]:
    for first, second in pairwise(sorted(deliveries, key=lambda d: d.ended_ms)):
        until_ms = _leased_until_ms(index, pair, first, second)
        if second.ended_ms < until_ms and not index.excuses(first, second):
            yield Problem(LEASED, pair[1], f"leased until {until_ms}, and delivered again: {first}, {second}")


def _leased_until_ms(index: Index, pair: Pair, first: Delivery, second: Delivery) -> int:
    """The earliest end of the first lease, by what was answered and what may have been done."""
    until_ms = first.began_ms + first.invisible_ms
    for change in (c for c in index.changes.get(pair, ()) if first.began_ms <= c.began_ms <= second.ended_ms):
        changed_ms = change.began_ms + change.invisible_ms
        sure = change.outcome is Outcome.OK and change.began_ms < second.ended_ms  # else it may be the second's own
        until_ms = changed_ms if sure else min(until_ms, changed_ms)
    return until_ms


def _disorder(index: Index) -> Iterator[Problem]:
    """A message of a message group comes after those sent surely before it are settled, or with them, in order."""
    ranks = {delivery_id: rank for rank, delivery_id in enumerate(map(id, index.history.deliveries))}
    together = {(d.call, d.key): ranks[id(d)] for d in index.history.deliveries}
    for send, before in _predecessors(index.history.sends):
        for group in index.history.groups:
            for delivery in index.deliveries.get((group, send.key), ()):
                settled_ms = index.settling_began_ms.get((group, before.key), delivery.ended_ms + 1)
                rank = together.get((delivery.call, before.key), len(ranks))
                if settled_ms > delivery.ended_ms and rank > ranks[id(delivery)]:
                    yield Problem(DISORDER, send.key, f"came before {before.key} was settled: {delivery}")


def _predecessors(sends: Iterable[Send]) -> Iterator[tuple[Send, Send]]:
    """(message, one of its message group that was acknowledged before it was sent): the last one such."""
    of_group: dict[tuple[str, str], list[Send]] = defaultdict(list)
    for send in sends:
        if send.message.message_group and send.outcome is not Outcome.FAILED:
            of_group[send.topic, send.message.message_group].append(send)
    for some in of_group.values():
        in_order = sorted(some, key=lambda send: send.began_ms)
        for at, send in enumerate(in_order):
            earlier = [s for s in in_order[:at] if s.ended_ms < send.began_ms and s.outcome is Outcome.OK]
            if earlier:
                yield send, max(earlier, key=lambda s: s.began_ms)


def _outranked(index: Index) -> Iterator[Problem]:
    """What was surely there and is higher, or as high and older, was delivered before; lower ones have their turns."""
    history = index.history
    for group in history.groups if history.priorities else ():
        mine = [d for d in history.deliveries if d.group == group and not d.place[0].startswith(DLQ)]
        firsts = {delivery.key: (at, delivery) for at, delivery in reversed(list(enumerate(mine)))}
        turns = len(mine) // history.lower_nth
        for at, delivery in enumerate(mine):
            for send in index.sends.values():
                if not _passed_over(index, send, delivery, at, firsts.get(send.key)):
                    continue
                higher = _band(history, send) - _band(history, index.sends[delivery.key])
                turns -= higher > 0
                if turns < 0 or not higher:
                    yield Problem(OUTRANKED, delivery.key, f"came before {send.key}: {delivery}, {send}")
                break


def _passed_over(index: Index, send: Send, delivery: Delivery, at: int, first: tuple[int, Delivery] | None) -> bool:
    """`send` was there and had not come when `delivery`, the group's delivery number `at`, came, and should have."""
    other = index.sends.get(delivery.key)
    if other is None or send.topic != other.topic or send.outcome is not Outcome.OK or send.deliver_ms or send.half:
        return False
    bands = _band(index.history, send), _band(index.history, other)
    if bands[0] < bands[1] or (bands[0] == bands[1] and send.ended_ms >= other.began_ms):
        return False
    if first is not None and first[1].call == delivery.call:
        return first[0] > at
    hidden = (delivery.group, send.topic) in index.history.cut_off  # it may have been in an answer that was lost
    later = first is None or first[1].began_ms > delivery.ended_ms
    return send.ended_ms < delivery.began_ms and later and not hidden


def _band(history: History, send: Send) -> int:
    return max(min(send.message.priority, history.priorities - 1), 0)


def _untimely(index: Index) -> Iterator[Problem]:
    for send in (send for send in index.sends.values() if send.deliver_ms):
        for group in index.history.groups:
            deliveries = index.deliveries.get((group, send.key), [])
            first = min(deliveries, key=lambda d: d.seen_ms, default=None)
            if first is not None and first.seen_ms < send.deliver_ms:
                yield Problem(EARLY, send.key, f"{send.deliver_ms - first.seen_ms} ms early: {first}")
            if first is not None and index.history.late_ms_max and _is_late(index.history, send, first):
                yield Problem(LATE, send.key, f"{first.seen_ms - send.deliver_ms} ms late: {first}")


def _is_late(history: History, send: Send, first: Delivery) -> bool:
    """Where a server was there all the time, and every group waited."""
    away = any(send.began_ms <= ms <= first.seen_ms for ms in history.kills)
    return not away and first.seen_ms > max(send.deliver_ms, send.ended_ms) + history.late_ms_max


def _half(index: Index) -> Iterator[Problem]:
    told: dict[str, set[bool]] = defaultdict(set)
    for end in index.history.ends:
        if end.outcome is Outcome.OK:
            told[end.key].add(end.commit)
    for key in (key for key, outcomes in told.items() if len(outcomes) > 1):
        yield Problem(HALF, key, "both outcomes were accepted")
    for delivery in index.history.deliveries:
        send = index.sends.get(delivery.key)
        began_ms = index.commits.get(delivery.key)
        if send is not None and send.half and (began_ms is None or delivery.ended_ms < began_ms):
            yield Problem(HALF, delivery.key, f"no commit had begun: {delivery}")


def _recalled(index: Index) -> Iterator[Problem]:
    recalled = {recall.key for recall in index.history.recalls if recall.outcome is Outcome.OK}
    for delivery in index.history.deliveries:
        if delivery.key in recalled:
            yield Problem(RECALLED, delivery.key, f"it was taken back: {delivery}")


def _dead(index: Index) -> Iterator[Problem]:
    """A dead letter was asked for or has used its attempts up, one that was answered exists, and none was acked."""
    history = index.history
    hidden = Counter(history.cut_off)
    acked = {(ack.group, ack.key): ack for ack in history.acks if ack.outcome is Outcome.OK}
    for (group, key), letters in index.dead.items():
        seen = {delivery.attempt for delivery in index.deliveries.get((group, key), ())}
        send = index.sends.get(key)
        attempts = len(seen) + hidden[group, send.topic if send else ""]
        if (group, key) not in index.burials and (not history.attempts_max or attempts < history.attempts_max):
            yield Problem(DEAD, key, f"given up after {len(seen)} attempts: {letters[0]}")
        if (group, key) in acked and (group, key) not in index.burials:
            yield Problem(DEAD, key, f"acknowledged, and given up: {acked[group, key]}, {letters[0]}")
    for pair, bury in index.burials.items():
        if bury.outcome is Outcome.OK and pair not in index.dead:
            yield Problem(DEAD, pair[1], f"its dead letter never came: {bury}")
    for delivery in (d for d in history.deliveries if not d.place[0].startswith(DLQ)):
        if 0 < history.attempts_max < delivery.attempt:
            yield Problem(DEAD, delivery.key, f"more attempts than {history.attempts_max}: {delivery}")


RULES: tuple[Callable[[Index], Iterator[Problem]], ...] = (
    _lost,
    _phantom_or_changed,
    _doubled,
    _undone,
    _while_leased,
    _disorder,
    _outranked,
    _untimely,
    _half,
    _recalled,
    _dead,
)
