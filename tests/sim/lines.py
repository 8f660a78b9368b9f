"""Message groups, priorities and lite topics among the verbs of a workload, and what must hold of them in each image.

A workload and an image of their own: the seeds of the others stay what they were. Besides what holds of every message,
and of every moment since all was safe (decisions 0009, 0014, 0015):

    order         of what comes of a message group or a lite topic nothing comes before what was sent before it,
                  whatever a power cut took: what comes twice comes again before all that is behind it; but for a
                  group of which nothing is left that tells of lite topics
    acks          one that was answered holds for ever once all before it in its line is settled; behind one that comes
                  again it may come again, behind that one
    priority      of what is ready the highest comes first but for the turns of lower ones, the oldest of each priority
                  first (tests/model/ranks.py); where messages are lost, lower ones may wait for one turn more
    lite topics   who subscribes what, and which groups have a place, is as it was; receives go on before a client says
                  again what it wants; a group gets what was sent since its place was made, and nothing before that

Ordinary groups read the lite topics' parent, too, and get all of it. No lite topic ends in these workloads.
"""

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

from rmq.config import Config, TopicSetting
from rmq.message import LITE_TOPIC, PRIORITY, SHARDING_KEY, Delivered, MessageType
from rmq.port import LiteAction, LiteStart, LiteSync, ReceiveRequest
from tests.model import ranks
from tests.model.ranks import Ranks
from tests.model.reading import Reading, reading, was
from tests.rmq.rig import outgoing, request
from tests.sim.images import LEASE_MS, Image, Stored
from tests.sim.rig import SimRig
from tests.sim.story import ACK, BURY, TAKE, Op, Sent
from tests.sim.workload import GROUPS, INVISIBLE_MS, TOPICS, Moment, Workload

LANES = "lanes"  # of message groups
FEEDS = "feeds"  # of lite topics
LINES = ("x", "y", "z")
NAMES = ("p", "q", "r", "s")
READERS: Mapping[str, int] = {"near": 100, "far": 4}  # groups that read by lite topics, and their attempts_max
CLIENTS = ("ann", "bob")
SYNC = "sync"


class Sync(NamedTuple):
    """A client said what it wants. `placed`: lite topics that the group's places were looked at for; `subscribed`: all
    subscriptions then.
    """

    op: Op
    is_anew: bool  # from the first message kept on
    placed: frozenset[str]
    subscribed: frozenset[tuple[str, str, str]]
    known: frozenset[tuple[str, str]]


class Lined(Workload):
    """`syncs`: all of them so far, in order."""

    topics: ClassVar[Sequence[str]] = (*TOPICS, LANES, ranks.TOPIC, FEEDS)
    attempts: ClassVar[Mapping[str, int]] = {**GROUPS, **READERS}

    def __init__(self, seed: int, flush: str, folder: Path, keep: float) -> None:
        self.syncs: list[Sync] = []
        super().__init__(seed, flush, folder, keep)

    def _settings(self, flush: str) -> Config:
        topics = {
            LANES: TopicSetting(MessageType.FIFO, 2),
            ranks.TOPIC: TopicSetting(MessageType.PRIORITY, ranks.QUEUES),
            FEEDS: TopicSetting(MessageType.LITE, 2),
        }
        return msgspec.structs.replace(
            super()._settings(flush), topics=topics, lower_priority_nth=ranks.NTH, lite_ttl_ms=0
        )

    def verbs(self) -> Mapping[Callable[[Any], None], int]:
        """See Workload: more of what settles, less of the rest."""
        return {
            **super().verbs(),
            Workload.send: 8,
            Workload.delay: 3,
            Workload.recall: 2,
            Workload.receive: 8,
            Workload.ack: 30,
            Lined.send_in_line: 16,
            Lined.receive_in_line: 18,
            Lined.send_ranked: 10,
            Lined.receive_ranked: 8,
            Lined.send_lite: 16,
            Lined.receive_lite: 18,
            Lined.sync: 8,
        }

    # -- message groups ----------------------------------------------------------------------------------------------

    def send_in_line(self) -> None:
        """Some of one message group in a call."""
        line = self._rng.choice(LINES)
        self._send_all(self._of_line(LANES, line), **{SHARDING_KEY: line})

    def _of_line(self, topic: str, line: str) -> list[Sent]:
        count = self._rng.choice((1, 2, 4))
        return [dataclasses.replace(self._new(topic), line=line) for _ in range(count)]

    def receive_in_line(self) -> None:
        """The first of each line, or several: acks then come in any order."""
        self._take(self._wanted(LANES, self._rng.choice(list(GROUPS)), fifo=self._rng.random() < 0.6))

    def _wanted(self, topic: str, group: str, *, fifo: bool = False) -> ReceiveRequest:
        batch, invisible_ms = self._rng.choice((1, 4, 16)), self._rng.choice(INVISIBLE_MS)
        return request(topic, group, batch=batch, invisible_ms=invisible_ms, fifo=fifo)

    # -- priorities --------------------------------------------------------------------------------------------------

    def send_ranked(self) -> None:
        """Some of one priority in a call; the highest is one too high."""
        priority = self._rng.randrange(ranks.QUEUES + 1)
        self._send_all(
            [self._new(ranks.TOPIC) for _ in range(self._rng.choice((1, 2, 4)))], **{PRIORITY: str(priority)}
        )

    def receive_ranked(self) -> None:
        """The highest first."""
        self._take(self._wanted(ranks.TOPIC, self._rng.choice(list(GROUPS))))

    # -- lite topics -------------------------------------------------------------------------------------------------

    def send_lite(self) -> None:
        """Some of one lite topic in a call."""
        lite = self._rng.choice(NAMES)
        self._send_all(self._of_line(FEEDS, lite), **{LITE_TOPIC: lite})

    def receive_lite(self) -> None:
        """Of what a client subscribes, if it does."""
        group, client = self._rng.choice(list(READERS)), self._rng.choice(CLIENTS)
        wanted = self._wanted(FEEDS, group, fifo=self._rng.random() < 0.5)
        self._take(msgspec.structs.replace(wanted, lite=True, client_id=client))

    def sync(self) -> None:
        """Too, no more, or only these; now and then from the first message on."""
        group, client = self._rng.choice(list(READERS)), self._rng.choice(CLIENTS)
        action: LiteAction = self._rng.choice(("add", "add", "remove", "replace"))
        names = frozenset(self._rng.sample(NAMES, self._rng.choice((1, 2, 3))))
        is_anew = self._rng.random() < 0.15
        self.syncs.append(self._sync_of(group, client, action, names, is_anew))
        op = self.syncs[-1].op
        wanted = LiteSync(group, FEEDS, client, action, sorted(names), LiteStart("min" if is_anew else "last"))
        self._when(self.rig.broker.sync_lite(wanted), lambda _: self.story.answer(op))

    def _sync_of(self, group: str, client: str, action: str, names: frozenset[str], is_anew: bool) -> Sync:
        op = self.story.begin(Op(SYNC, Sent("", FEEDS, "", ""), group))
        before = self.syncs[-1].subscribed if self.syncs else frozenset()
        known = self.syncs[-1].known if self.syncs else frozenset()
        mine = frozenset(lite for owner, who, lite in before if (owner, who) == (group, client))
        wanted = {"add": mine | names, "remove": mine - names, "replace": names}[action]
        placed = {"add": names, "remove": frozenset[str](), "replace": names - mine}[action]
        others = frozenset(one for one in before if one[:2] != (group, client))
        subscribed = others | {(group, client, lite) for lite in wanted}
        return Sync(op, is_anew, placed, subscribed, known | {(group, lite) for lite in placed})


class LinedImage(Image):
    """What the docstring of this file says."""

    _run: Lined

    def __init__(self, run: Lined, moment: Moment, rng: random.Random) -> None:
        super().__init__(run, moment, rng)
        self._came: dict[tuple[str, str], list[str]] = {}  # (group, topic): names, in order
        self._ranks = Ranks()
        self._syncs = [sync for sync in run.syncs if self._cut.saw(sync.op)]
        self._is_told_anew = self._has_holes = False
        self._over: dict[tuple[str, str, str], set[str]] = {}  # by group, topic and line

    def _look(self, rig: SimRig) -> None:
        self._check_reading(rig)
        read, queues = rig.broker._store.read_message, rig.broker._store.state.topics[ranks.TOPIC].queues
        self._has_holes = any(
            read(ranks.TOPIC, queue.queue_id, offset) is None
            for queue in queues
            for offset in range(queue.min_offset, queue.max_offset)
        )
        super()._look(rig)
        self._check_order()

    def _pairs(self) -> Iterator[tuple[str, str]]:
        yield from super()._pairs()
        yield from ((reader, FEEDS) for reader in READERS)

    # -- what comes --------------------------------------------------------------------------------------------------

    def _deliver(self, rig: SimRig) -> Counter[tuple[str, str]]:
        """Of lite topics at first as the start knows the subscriptions; the second time each client says them anew."""
        found = super()._deliver(rig)
        for group in READERS:
            for client in CLIENTS:
                if self._is_told_anew:
                    rig.wait(rig.broker.sync_lite(LiteSync(group, FEEDS, client, "replace", NAMES)))
                wanted = request(FEEDS, group, batch=32, invisible_ms=LEASE_MS, client_id=client, lite=True)
                messages = self._drain(rig, wanted)
                found.update((group, message.body.decode()) for message in messages)
                if not self._is_told_anew:
                    self._check_subscribed(group, client, messages)
        self._is_told_anew = True
        return found

    def _drain(self, rig: SimRig, wanted: ReceiveRequest) -> Sequence[Delivered]:
        wanted = msgspec.structs.replace(wanted, fifo=self._rng.random() < 0.5)
        came = super()._drain(rig, wanted)
        self._came.setdefault((wanted.group, wanted.topic), []).extend(message.body.decode() for message in came)
        if wanted.topic == ranks.TOPIC:
            self._judge(wanted.group, [(message.queue_id, message.queue_offset) for message in came])
        return came

    def _judge(self, group: str, came: list[ranks.Rank]) -> None:
        """All that came was ready all the while: time stood still. Lost messages wait as others do until they are met,
        which may take a lower one's turn.
        """
        try:
            self._ranks.judge(group, came, set(came), filtered=self._has_holes)
        except AssertionError as error:
            self._wrong.append(f"{group} gets priorities as {came}: {error}")

    # -- lines -------------------------------------------------------------------------------------------------------

    def _check_order(self) -> None:
        """Of each line, over both times. But nobody can order what a group held by lite topics where a power cut left
        nothing that tells of these: no subscription, place or line.
        """
        for (group, topic), names in self._came.items():
            if group in READERS and group not in self._reads_lites and not self._knows(group):
                continue
            for line in self._lines_of(group, topic):
                begun = [op.sent.name for op in self._run.story.begun(topic, line)]
                came = [name for name in names if name in begun]
                if came != sorted(came, key=begun.index):
                    self._wrong.append(f"{line} of {topic} comes to {group} as {came}, and was sent as {begun}")

    def _lines_of(self, group: str, topic: str) -> Sequence[str]:
        """An ordinary group gets the messages of lite topics as any other."""
        if group in READERS:
            return NAMES
        return LINES if topic == LANES else ()

    def _is_over(self, group: str, sent: Sent) -> bool:
        if sent.line not in self._lines_of(group, sent.topic):
            return super()._is_over(group, sent)
        key = group, sent.topic, sent.line
        if key not in self._over:
            self._over[key] = self._over_of(*key)
        return sent.name in self._over[key]

    def _is_invisible(self, group: str, sent: Sent) -> bool:
        return bool(self._since_anew(group, sent)) and super()._is_invisible(group, sent)

    def _over_of(self, group: str, topic: str, line: str) -> set[str]:
        """Those of a line that must not come again."""
        over: set[str] = set()
        is_open, taken = False, 0
        for op in self._run.story.begun(topic, line):
            ops = self._since_anew(group, op.sent)
            if self._is_done(ops, is_open=is_open, taken=taken):
                over.add(op.sent.name)
            else:
                is_open = is_open or bool(ops)
            taken = max([taken, *(one.began for one in ops if one.kind == TAKE)])
        return over

    def _is_done(self, ops: Sequence[Op], *, is_open: bool, taken: int) -> bool:
        """A dead letter is none of its line any more; an ack counts where nothing before it was open, or came again."""
        done = [op for op in ops if op.kind in (ACK, BURY) and self._cut.keeps(op)]
        return any(op.kind == BURY or (op is ops[-1] and not is_open and taken < op.began) for op in done)

    def _since_anew(self, group: str, sent: Sent) -> list[Op]:
        """What was done to it since the group was moved to the begin of its lite topic, and it was delivered anew: what
        is acknowledged of a delivery before was settled by that.
        """
        anew = max(
            (sync.op.began for sync in self._syncs if sync.is_anew and self._places(sync, group, sent)), default=0
        )
        ops = self._run.story.ops(group, sent.name, self._cut)
        if not anew:
            return ops
        return list(itertools.dropwhile(lambda op: op.kind != TAKE, (op for op in ops if op.began > anew)))

    # -- lite topics -------------------------------------------------------------------------------------------------

    def _check_reading(self, rig: SimRig) -> None:
        """What there is, who subscribes it and where there are places is as at some moment since all was safe."""
        lites = rig.broker._store.state.lites
        self._reads_lites = {group.group for group in lites.of_topic(FEEDS)}
        found = self._reading = reading(lites, FEEDS, NAMES)
        sends = [op for op in self._run.story.sends.values() if op.sent.topic == FEEDS and self._cut.saw(op)]
        safe = {op.sent.line for op in sends if self._cut.keeps(op)}
        moments = [Reading(safe, set(), set())]
        for sync in self._syncs:
            if self._cut.keeps(sync.op):
                safe |= sync.placed
                moments.clear()
            moments.append(Reading(safe, {*sync.subscribed}, {*sync.known}))
        there = {op.sent.line for op in sends}.union(*(sync.placed for sync in self._syncs))
        if not (
            safe <= found.there <= there
            and was(found.subscribed, [moment.subscribed for moment in moments])
            and was(found.known, [moment.known for moment in moments])
        ):
            self._wrong.append(f"lite topics are read as {found}, and were as {moments}, {there}")

    def _knows(self, group: str) -> bool:
        """Nothing is lost of what its clients subscribed. Else it may be given what was passed over: bytes of the log
        that a power cut took may have said why.
        """
        return not self.power_cut or all(self._cut.keeps(sync.op) for sync in self._syncs if sync.op.group == group)

    def _may_double(self, group: str, name: str) -> bool:
        return super()._may_double(group, name) or not self._knows(group)

    def _check_subscribed(self, group: str, client: str, messages: Sequence[Delivered]) -> None:
        lites = {message.properties.get(LITE_TOPIC, "") for message in messages}
        if self._knows(group) and not all((group, client, lite) in self._reading.subscribed for lite in lites):
            self._wrong.append(f"{client} of {group} gets {lites}, and subscribes {self._reading.subscribed}")

    def _check_group(self, group: str, topic: str, *args: Any) -> None:
        """Besides: a reader gets nothing that was sent before its group's place was made."""
        super()._check_group(group, topic, *args)
        for name in self._came.get((group, topic), ()) if group in READERS and self._knows(group) else ():
            sent = self._run.story.sends[name]
            places = [sync for sync in self._syncs if self._places(sync, group, sent.sent)]
            if not any(sync.is_anew or sync.op.began < sent.began for sync in places):
                self._wrong.append(f"{sent} comes to {group}, whose places are {places}")

    def _check_use(self, rig: SimRig) -> None:
        """Besides: what is sent afterwards comes in each line, and nothing else any more."""
        rig.send(*(outgoing(f"next {line}", topic=LANES, **{SHARDING_KEY: line}) for line in LINES))
        rig.send(*(outgoing(f"next {lite}", topic=FEEDS, **{LITE_TOPIC: lite}) for lite in NAMES))
        for group, topic in [*((group, LANES) for group in GROUPS), *((reader, FEEDS) for reader in READERS)]:
            wanted = request(topic, group, batch=32, client_id=CLIENTS[0], lite=topic == FEEDS)
            came = sorted(message.body.decode() for message in self._drain(rig, wanted))
            if came != [f"next {line}" for line in self._lines_of(group, topic)]:
                self._wrong.append(f"{came} of {topic} come to {group} at the end")
        super()._check_use(rig)

    def _places(self, sync: Sync, group: str, sent: Sent) -> bool:
        return sync.op.group == group and sent.topic == FEEDS and sent.line in sync.placed

    def _is_owed(self, group: str, sent: Op, rows: Sequence[Stored]) -> bool:
        """Sent since the group's place was made, or it was moved before it; and not settled since."""
        if group not in READERS:
            return super()._is_owed(group, sent, rows)
        ops = self._run.story.ops(group, sent.sent.name, self._cut)
        settled = max((op.began for op in ops if op.kind in (ACK, BURY)), default=0)
        places = [sync for sync in self._syncs if self._places(sync, group, sent.sent)]
        began = [
            sync.op.began
            for sync in places
            if self._cut.keeps(sync.op) and (sync.is_anew or sync.op.began < sent.began)
        ]
        if not began or settled > max(began):
            return False
        since = self._since_anew(group, sent.sent)
        return self._is_kept(rows) or (
            self._cut.keeps(sent) and any(op.kind == TAKE and self._cut.keeps(op) for op in since)
        )

    def _deaths_max(self, group: str, name: str) -> int:
        """One more for each time that it began anew."""
        sent = self._run.story.sent(name)
        return 1 + sum(sync.is_anew and self._places(sync, group, sent) for sync in self._syncs)
