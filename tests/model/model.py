"""A naive model of the broker: dicts and lists, no log, no queues (facts: store.md 6.11).

Owns what is known of each message for each group, and takes what the broker delivers: it must have been sent and
wanted, not be invisible nor settled, have the attempt that is next, and be next in its message group.
What priority promises is ranks.py's.
"""

import asyncio
import bisect
import dataclasses
import itertools
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import ClassVar

from hypothesis.stateful import RuleBasedStateMachine

from rmq.config import AS_IS, GroupFlags, GroupSetting, TopicSetting
from rmq.filter import by_tag
from rmq.message import Delivered, MessageType
from rmq.port import Answer, ReceiveRequest
from rmq_store.errors import StoreError
from tests.model import ranks
from tests.model.ranks import Ranks
from tests.rmq.rig import SMALL, config, request
from tests.sim.disk import SimDisk
from tests.sim.rig import SimRig

TOPICS = ("orders", "bills")
ALL_TOPICS = (*TOPICS, ranks.TOPIC)
GROUPS: Mapping[str, str] = {"all": "*", "some": "a || Aa"}  # and their filters
TAGS = ("a", "b", "Aa", "BB", "")
CLIENTS = ("", "ann", "bob")  # "": not renewed by the server
ATTEMPTS_MAX = 3
RETRY_MS = 5_000
RENEW_MS = 60_000
RENEW_TOTAL_MS = 150_000
AUDITOR = "auditor"


@dataclasses.dataclass
class Sent:
    """A message as its sender knows it."""

    topic: str
    tag: str
    queue_id: int
    offset: int
    message_group: str = ""
    lite_topic: str = ""

    def at(self, queue_id: int, offset: int) -> "Sent":
        """The same, in its place."""
        return dataclasses.replace(self, queue_id=queue_id, offset=offset)


def to_be_found(topic: str, tag: str, message_group: str = "", lite_topic: str = "") -> Sent:
    """One that may or may not be stored: nobody knows where."""
    return Sent(topic, tag, -1, -1, message_group, lite_topic)


@dataclasses.dataclass
class Lease:
    """Who has a message, and when that ends."""

    handle: str
    taken_ms: int
    due_ms: int
    client: str = ""  # renewed by the server while this one is online
    suspended: bool = False  # the delivery does not count


@dataclasses.dataclass(eq=False)
class Place:
    """One message for one group. Without a lease it is available, unless it is over, or others come before it."""

    offset: int

    attempts: int = 0  # deliveries that count
    lease: Lease | None = None
    over: str = ""  # acked, dead, gone with its segment, or not for this group; early: acked behind one that is not
    deaths: int = 0  # dead letters, before the group began with it anew
    old_handles: list[str] = dataclasses.field(default_factory=list)
    line: "list[Place]" = dataclasses.field(default_factory=list, repr=False)  # all of its message group, in order

    @property
    def is_new(self) -> bool:
        return not self.old_handles and self.lease is None and not self.over

    @property
    def is_settled(self) -> bool:
        return self.over not in ("", "early")

    @property
    def before(self) -> "Iterator[Place]":
        """Those of its message group that have to be settled first."""
        return itertools.takewhile(lambda place: place is not self, self.line)

    @property
    def when_acked(self) -> str:
        """What it is then."""
        return "acked" if all(place.is_settled for place in self.before) else "early"

    def is_available(self, *, fifo: bool) -> bool:
        """To a client that may get several of a message group, or to every other."""
        if self.lease is not None or self.over:
            return False
        return all(p.is_settled or (fifo and p.lease is None) for p in self.before)

    def settle_line(self) -> None:
        """Early acks count now, as far as all before them is settled."""
        for place in self.line:
            if place.over == "early":
                place.over = "acked"
            if not place.is_settled:
                break

    def undo_acks(self) -> None:
        """It comes again, and so does what was acked behind it."""
        for place in self.line[self.line.index(self) + 1 :] if self.line else ():
            if place.over == "early" and place.attempts < ATTEMPTS_MAX:
                place.over = ""


class Model(RuleBasedStateMachine):
    """One run. `counts`: what happened, over all runs."""

    flush: ClassVar[str] = "fast"
    owners: ClassVar[Sequence[str]] = tuple(GROUPS)  # groups that may hold a message
    flags: ClassVar[Mapping[str, GroupFlags]] = {}  # of some of them
    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        with ExitStack() as owned:
            folder = Path(owned.enter_context(tempfile.TemporaryDirectory()))
            of_it = config(**self._settings(), data="", flush=self.flush)
            self.rig = owned.enter_context(closing(SimRig(of_it, folder / "checkpoint", SimDisk(), random.Random(0))))
            self.owned = owned.pop_all()
        self.sent: dict[str, Sent] = {}
        self.places: dict[tuple[str, str], Place] = {}  # (group, body)
        self.lines: dict[tuple[str, str, str], list[Place]] = {}  # (group, topic, message group)
        self.online: set[tuple[str, str]] = set()
        self.polls: list[tuple[ReceiveRequest, asyncio.Future[Sequence[Delivered]]]] = []
        self.dead: Counter[tuple[str, str]] = Counter()
        self.letters_seen: list[int] = []
        self.named = 0
        self.unanswered: dict[str, Sent] = {}  # sends that may or may not be stored
        self.past: dict[int, list[Place]] = {}  # what each place was, since everything was safe
        self.aged = 0
        self.ranks = Ranks()

    def _settings(self) -> dict[str, object]:
        small: dict[str, object] = {**SMALL, "segment_bytes": 64 << 10, "log_bytes_max": 64 << 10}
        small |= {"topic_queues": 2, "flush_interval_ms": 1, "auto_renew_ms": RENEW_MS}
        small |= {"topics": {ranks.TOPIC: TopicSetting(MessageType.PRIORITY, ranks.QUEUES)}}
        small |= {"lower_priority_nth": ranks.NTH, "renew_total_ms_max": RENEW_TOTAL_MS}
        flags = {group: self.flags.get(group, AS_IS) for group in self.owners}
        groups = {group: GroupSetting(ATTEMPTS_MAX, (RETRY_MS,), flags=flags[group]) for group in flags}
        return small | {"groups": groups}

    def _next_name(self) -> str:
        self.named += 1
        return f"m{self.named}"

    def _stored(self, name: str, sent: Sent) -> None:
        self.sent[name] = sent
        for group, wanted in GROUPS.items():
            if wanted == "*" or sent.tag in by_tag(wanted).tags:  # type: ignore[operator]  # not `*`: it has tags
                place = self.places[group, name] = Place(sent.offset)
                if sent.message_group:
                    place.line = self.lines.setdefault((group, sent.topic, sent.message_group), [])
                    bisect.insort(place.line, place, key=lambda one: one.offset)

    def _ask(
        self,
        group: str,
        topic: str,
        batch: int,
        client: str,
        invisible_ms: int,
        *,
        fifo: bool = False,
        turns: int = 4,
    ) -> Answer[Sequence[Delivered]]:
        wanted = request(
            topic, group, batch=batch, tag=GROUPS[group], invisible_ms=invisible_ms, client_id=client or "simple",
            auto_renew=bool(client), poll_ms=600_000, fifo=fifo,
        )  # fmt: skip
        return self._receive(wanted, turns)

    def _receive(self, wanted: ReceiveRequest, turns: int) -> Answer[Sequence[Delivered]]:
        if wanted.auto_renew:
            self.online.add((wanted.group, wanted.client_id))
        ranked = self._ranked(wanted.group)
        busy = not turns and self.rig.broker._serving.is_due  # it lines up behind others of this very turn
        is_there = self._is_there(wanted)
        answer = self.rig.broker.receive(wanted)
        if isinstance(answer, asyncio.Future):
            # a log that can't go on may have kept the lease of what a receive before was not given
            assert busy or not is_there or self.rig.broker.failed.done()
            self.polls.append((wanted, answer))
        else:
            self._take(wanted, answer)
            self._judge(wanted, answer, ranked if turns else None)
        self.rig.turn(turns)
        return answer

    def _changes(self, place: Place) -> None:
        self.past.setdefault(id(place), []).append(dataclasses.replace(place, old_handles=[*place.old_handles]))

    # -- the model ---------------------------------------------------------------------------------------------------

    def _pairs(self) -> list[tuple[str, str]]:
        return [(group, topic) for group in GROUPS for topic in ALL_TOPICS]

    def _now_ms(self) -> int:
        return self.rig.clock.lease_ms()

    def _count(self, what: str, count: int = 1) -> None:
        self.counts[what] += count

    def _found(self, *, fifo: bool = False) -> Iterator[tuple[str, str]]:
        """(group, topic) of each message that a receive has to find."""
        for (group, name), place in self.places.items():
            if place.is_available(fifo=fifo):
                yield group, self.sent[name].topic

    def _is_there(self, wanted: ReceiveRequest) -> bool:
        """Something that this receive has to find."""
        return (wanted.group, wanted.topic) in self._found()

    def _ranked(self, group: str) -> set[ranks.Rank]:
        """What is available to it of the topic with priorities."""
        mine = [(name, place) for (owner, name), place in self.places.items() if owner == group]
        sent = [self.sent[name] for name, place in mine if place.is_available(fifo=False)]
        return {(one.queue_id, one.offset) for one in sent if one.topic == ranks.TOPIC}

    def _judge(self, wanted: ReceiveRequest, messages: Sequence[Delivered], available: set[ranks.Rank] | None) -> None:
        """Of the topic with priorities; None where nobody knows what was available."""
        if wanted.topic != ranks.TOPIC:
            return
        if available is None:
            self.ranks.unseen(wanted.group, len(messages))
            return
        came = [(message.queue_id, message.queue_offset) for message in messages]
        turns = self.ranks.judge(wanted.group, came, available, filtered=GROUPS[wanted.group] != "*")
        self._count("came in a lower one's turn", turns)
        self._count("judged by priority", len(came))

    def _held(self) -> Iterator[tuple[str, str, Place, Lease]]:
        for (group, name), place in self.places.items():
            if place.lease is not None:
                yield group, name, place, place.lease

    def _pick(self, pick: int) -> tuple[str, str, Place, Lease]:
        """One of those that are held, the latest for 0."""
        held = list(self._held())
        return held[-1 - pick % len(held)]

    def _leave(self, place: Place, over: str) -> None:
        assert place.lease is not None
        place.old_handles.append(place.lease.handle)
        place.lease = None
        place.over = over
        for behind in place.line:
            if behind.over == "early" and behind is not place:
                self._changes(behind)
        if over:
            place.settle_line()
        else:
            place.undo_acks()

    def _collect(self) -> None:
        """Polls that were answered meanwhile."""
        for wanted, answer in [poll for poll in self.polls if poll[1].done()]:
            if isinstance(answer.exception(), StoreError):
                continue  # the log could not take its lease: nobody was given anything
            self._take(wanted, answer.result())
            self._judge(wanted, answer.result(), None)
        self.polls = [poll for poll in self.polls if not poll[1].done()]

    def _take(self, wanted: ReceiveRequest, messages: Sequence[Delivered]) -> None:
        assert len(messages) <= wanted.batch
        here: list[Place] = []
        for message in messages:
            name = message.body.decode()
            if name in self.unanswered:
                self._stored(name, self.unanswered.pop(name).at(message.queue_id, message.queue_offset))
            assert name in self.sent, f"never sent: {name}"
            sent = self.sent[name]
            place = self.places.get((wanted.group, name))
            assert place is not None, f"{name} is not wanted by {wanted.group}"
            where = (message.topic, message.queue_id, message.queue_offset, message.properties.get("TAGS", ""))
            assert where == (sent.topic, sent.queue_id, sent.offset, sent.tag)
            assert message.properties["UNIQ_KEY"] == f"id-{name}"
            self._deliver(wanted, place, message)
            in_turn = (p.is_settled or p.over == "early" or (wanted.fifo and p in here) for p in place.before)
            assert all(in_turn), f"{name} is delivered before others of its message group"
            here.append(place)
        self._count("delivered", len(messages))

    def _deliver(self, wanted: ReceiveRequest, place: Place, message: Delivered) -> None:
        self._changes(place)
        assert not place.over, f"delivered though it is {place.over}: {message}"
        assert place.lease is None, f"delivered while it is invisible: {message}"
        place.attempts += 1
        assert message.attempt == place.attempts <= ATTEMPTS_MAX
        assert message.handle not in place.old_handles
        now_ms = self._now_ms()
        due_ms = now_ms + (RENEW_MS if wanted.auto_renew else wanted.invisible_ms)
        renewed = wanted.auto_renew and (wanted.group, wanted.client_id) in self.online
        place.lease = Lease(message.handle, now_ms, due_ms, wanted.client_id if renewed else "")

    def _expire(self) -> None:
        """As the broker's tick: what is due ends, is renewed, or is given up by the server."""
        now_ms = self._now_ms()
        for _, _, place, lease in list(self._held()):
            if lease.due_ms > now_ms:
                continue
            if not lease.client:
                self._end(place)
            elif now_ms - lease.taken_ms < RENEW_TOTAL_MS:
                lease.due_ms = min(now_ms + RENEW_MS, lease.taken_ms + RENEW_TOTAL_MS)
            else:
                lease.client, lease.due_ms = "", now_ms + RETRY_MS

    def _end(self, place: Place) -> None:
        self._leave(place, "dead" if place.attempts >= ATTEMPTS_MAX else "")
        self._count("ended")
