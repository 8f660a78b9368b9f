"""Clients and an operator at work on a simulated broker, decided by a seed; moments of it are kept for crash images.

The verbs are the broker's: sends of several topics and queues, delayed ones and their recall, receives, acks, changes
of invisible duration, dead letters, leases that end, segments that roll, retention, topics and groups that come and go,
checkpoints, the key index, stops in good order. Nobody waits for an answer before the next call, unless the seed says
so. At any step of the disk, inside of a verb or of a worker's job, a moment may be kept.
"""

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from rmq.config import Config, GroupSetting
from rmq.errors import ClientError
from rmq.message import KEYS, TIMER_DELIVER_MS, SendResult
from rmq.port import ReceiveRequest
from tests.rmq.rig import SMALL, config, outgoing, request
from tests.sim.disk import SimDisk
from tests.sim.rig import SimRig
from tests.sim.story import ACK, BURY, CHANGE, DELAY, DROP, RECALL, SEND, TAKE, Op, Sent, Story

T = TypeVar("T")
TOPICS = ("orders", "bills")
GROUPS = {"all": 100, "few": 3}  # and their attempts_max
TAGS = ("a", "b", "")
OTHER_TOPICS = ("t0", "t1")
INVISIBLE_MS = (500, 30_000, 200_000)
DELAYS_MS = (300, 1_000, 20_000, 400_000)
_FILLER = "x" * 8_000


class Moment(NamedTuple):
    """The disk, and what had been said, when a step of the disk was about to be taken."""

    disk: SimDisk
    at: int
    now_ms: int
    synced: int
    written: int  # the log's end, as far as it was written
    commits: int  # checkpoints so far
    begin: int  # of the log, once the retention under way is done
    begins: Mapping[tuple[str, int], int]  # of queues: what lies before is given to nobody who has not had it


class Held(NamedTuple):
    """A delivery that its client may answer."""

    group: str
    sent: Sent
    handle: str


class Workload:
    """One run. `moments` are kept with probability `keep` at each step of the disk."""

    topics: ClassVar[Sequence[str]] = TOPICS  # that each of GROUPS reads
    attempts: ClassVar[Mapping[str, int]] = GROUPS  # of every group that reads

    def __init__(self, seed: int, flush: str, folder: Path, keep: float) -> None:
        self.story = Story()
        self.moments: list[Moment] = []
        self.checkpoints: list[bytes] = []  # LMDB's file after each commit
        self.positions: list[int] = []  # up to where each of them knows the log
        self.settings = self._settings(flush)
        self._rng = random.Random(seed)
        self._keep = keep
        self._folder = folder
        self._held: list[Held] = []
        self._recallable: list[tuple[Op, str]] = []
        self._answers: list[tuple[asyncio.Future[Any], Callable[[Any], None]]] = []
        self._named = 0
        self._begin = 0
        self._begins: Counter[tuple[str, int]] = Counter()
        self.rig = SimRig(self.settings, folder, SimDisk(), self._rng)
        self._watch()

    def _settings(self, flush: str) -> Config:
        """Small files, and every limit as it is for users."""
        small: dict[str, object] = {**SMALL, "segment_bytes": 64 << 10, "log_bytes_max": 128 << 10}
        groups = {group: GroupSetting(attempts_max, (5_000,)) for group, attempts_max in self.attempts.items()}
        return config(**small, flush=flush, data="", topic_queues=2, groups=groups)

    def run(self, verbs: int) -> None:
        """So many of them; then the process ends."""
        for topic in self.topics:
            for group in GROUPS:
                self.rig.receive(request(topic, group))
        flusher, log = self.rig.broker._store.flusher, self.rig.broker._store.log
        self.rig.run_while(lambda: flusher.synced < log.end)
        self.rig.disk.on_event = self._step
        table = self.verbs()
        for verb in self._rng.choices(list(table), list(table.values()), k=verbs):
            verb(self)
            self._pass(self._rng.choice((0, 0, 1, 3)))
        self.rig.disk.on_event = lambda operation, path: None
        self.rig.abandon()
        self.rig.checkpoint.close()

    def verbs(self) -> "Mapping[Callable[[Any], None], int]":
        """And how often each is done, beside the others."""
        return _VERBS

    def _watch(self) -> None:
        self.rig.checkpoint.on_commit = self._saved

    def _saved(self, position: int) -> None:
        self.checkpoints.append((self._folder / "data.mdb").read_bytes())
        self.positions.append(position)

    def _step(self, operation: str, path: str) -> None:
        del operation, path
        if self._rng.random() < self._keep:
            self._hear()
            self._note_begins()
            store = self.rig.broker._store
            self.moments.append(
                Moment(
                    self.rig.disk.frozen(),
                    self.story.at,
                    self.rig.clock.wall_ms(),
                    store.flusher.synced,
                    store.log.written,
                    len(self.checkpoints),
                    self._begin,
                    dict(self._begins),
                )
            )

    def _pass(self, turns: int) -> None:
        self.rig.turn(turns)
        if turns:
            self._written()
        self._hear()
        self._note_begins()

    def _note_begins(self) -> None:
        log = self.rig.broker._store.log
        self._begin = max(self._begin, log.segments[-1].base if self.rig.broker._retention._work else log.begin)
        for queue in (q for name in self.topics for q in self.rig.broker._store.state.topics[name].queues):
            key = queue.topic, queue.queue_id
            self._begins[key] = max(self._begins[key], queue.min_offset)

    def _written(self) -> None:
        self.story.written(self.rig.broker._store.log.end)

    def _hear(self) -> None:
        """Of the answers that have come."""
        done = [pair for pair in self._answers if pair[0].done()]
        self._answers = [pair for pair in self._answers if not pair[0].done()]
        for answer, then in done:
            then(answer.result())

    def _when(self, answer: "asyncio.Future[T] | T", then: Callable[[T], None]) -> None:
        if isinstance(answer, asyncio.Future):
            self._answers.append((answer, then))
        else:
            then(answer)

    # -- clients -----------------------------------------------------------------------------------------------------

    def send(self) -> None:
        """A call with one message or some."""
        self._send(self._rng.choice(TOPICS))

    def _send(self, topic: str) -> None:
        self._send_all([self._new(topic) for _ in range(self._rng.choice((1, 1, 4)))])

    def _send_all(self, all_sent: Sequence[Sent], **properties: str) -> None:
        """In one call, with these properties each."""
        ops = [self.story.begin(Op(SEND, sent)) for sent in all_sent]
        messages = [outgoing(s.name, topic=s.topic, tag=s.tag, **keys_of(s), **properties) for s in all_sent]

        def answered(results: Sequence[SendResult]) -> None:
            for op, result in zip(ops, results, strict=True):
                op.sent.place = result.queue_id, result.queue_offset
                self.story.answer(op)

        self._when(self.rig.broker.send(messages), answered)

    def _new(self, topic: str) -> Sent:
        self._named += 1
        return Sent(f"m{self._named}", topic, self._rng.choice(TAGS), self._rng.choice(("", f"k{self._named}")))

    def delay(self) -> None:
        """One message for later."""
        sent = self._new(self._rng.choice(TOPICS))
        due_ms = self.rig.clock.wall_ms() + self._rng.choice(DELAYS_MS)
        op = self.story.begin(Op(DELAY, sent, due_ms=due_ms))
        later = keys_of(sent) | {TIMER_DELIVER_MS: str(due_ms)}

        def answered(results: Sequence[SendResult]) -> None:
            self._recallable.append((op, results[0].recall_handle))
            self.story.answer(op)

        self._when(self.rig.broker.send([outgoing(sent.name, topic=sent.topic, tag=sent.tag, **later)]), answered)

    def recall(self) -> None:
        """One of those that wait yet."""
        if not self._recallable:
            return
        delayed, handle = self._recallable.pop(self._rng.randrange(len(self._recallable)))
        if delayed.due_ms > self.rig.clock.wall_ms():
            op = self.story.begin(Op(RECALL, delayed.sent))
            try:
                answer = self.rig.broker.recall(delayed.sent.topic, handle)
            except ClientError:
                self.story.refused(op)
                return
            self._when(answer, lambda _: self.story.answer(op))

    def receive(self) -> None:
        """What there is, for one of the groups."""
        group, topic = self._rng.choice(list(GROUPS)), self._rng.choice(TOPICS)
        invisible_ms = self._rng.choice(INVISIBLE_MS)
        self._take(request(topic, group, batch=self._rng.choice((1, 4, 16)), invisible_ms=invisible_ms))

    def _take(self, wanted: ReceiveRequest) -> None:
        answer = self.rig.broker.receive(wanted)
        assert not isinstance(answer, asyncio.Future)
        due_ms = self.rig.clock.lease_ms() + wanted.invisible_ms
        for message in answer:
            sent = self.story.sent(message.body.decode())
            self.story.begin(Op(TAKE, sent, wanted.group, due_ms=due_ms))
            self._held.append(Held(wanted.group, sent, message.handle))

    def ack(self) -> None:
        """A few of what is held, each in a call of its own."""
        for held in self._take_held(self._rng.choice((1, 1, 5))):
            op = self.story.begin(Op(ACK, held.sent, held.group))
            self._when(
                self.rig.broker.ack(held.group, held.sent.topic, [held.handle]), functools.partial(self._acked, op)
            )

    def _acked(self, op: Op, outcomes: Sequence[ClientError | None]) -> None:
        if outcomes == [None]:
            self.story.answer(op)
        else:
            self.story.refused(op)

    def change(self) -> None:
        """Sooner, later, or now."""
        for held in self._take_held(1):
            invisible_ms = self._rng.choice((0, *INVISIBLE_MS))
            due_ms = self.rig.clock.lease_ms() + invisible_ms
            op = self.story.begin(Op(CHANGE, held.sent, held.group, due_ms=due_ms))
            try:
                answer = self.rig.broker.change_invisible(
                    held.group, held.sent.topic, held.handle, invisible_ms, suspend=self._rng.random() < 0.3
                )
            except ClientError:
                self.story.refused(op)
                continue
            self._when(answer, functools.partial(self._changed, op, held))

    def _changed(self, op: Op, held: Held, handle: str) -> None:
        self.story.answer(op)
        self._held.append(held._replace(handle=handle))

    def bury(self) -> None:
        """A dead letter, as a client asks for it."""
        for held in self._take_held(1):
            op = self.story.begin(Op(BURY, held.sent, held.group))
            try:
                answer = self.rig.broker.dead_letter(held.group, held.sent.topic, held.handle)
            except ClientError:
                self.story.refused(op)
                continue
            self._when(answer, functools.partial(self._buried, op))

    def _buried(self, op: Op, nothing: None) -> None:
        del nothing
        self.story.answer(op)

    def _take_held(self, count: int) -> Iterator[Held]:
        for _ in range(min(count, len(self._held))):
            yield self._held.pop(self._rng.randrange(len(self._held)))

    # -- time and the operator ---------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Large messages that nobody reads: segments roll."""
        for _ in range(self._rng.choice((1, 2, 5))):
            self.rig.broker.send([outgoing(_FILLER, topic="filler")])

    def later(self) -> None:
        """Leases end."""
        self.rig.clock.advance(ms=self._rng.choice((400, 1_000, 31_000)))
        self.rig.broker.tick()

    def idle(self) -> None:
        """The loop's time passes: a checkpoint, the key index, a sync that nobody waits for, retention."""
        until_s = self.rig.loop.time() + self._rng.choice((0.01, 1.1, 11.0))
        self.rig.loop.run_until(lambda: self.rig.loop.time() >= until_s, 60.0)
        self._pass(1)

    def clean(self) -> None:
        """Retention, as far as it gets at once."""
        self.rig.broker._retention.step(self.rig.clock.wall_ms())

    def save(self) -> None:
        """A checkpoint is begun."""
        saver = self.rig.broker._store._saver
        assert saver is not None
        saver.save()

    def come_and_go(self) -> None:
        """Topics and a group, with messages in them."""
        topic = self._rng.choice(OTHER_TOPICS)
        admin = self.rig.broker.admin
        if self.rig.broker.topics.find(topic) is None or self._rng.random() < 0.5:
            self._send(topic)
            self.rig.broker.receive(request(topic, "guest"))
            self.rig.broker.receive(request(self._rng.choice(TOPICS), "guest"))
            return
        if self._rng.random() < 0.3 and "guest" in self.rig.broker._store.state.groups:
            admin.delete_group("guest")
        op = self.story.begin(Op(DROP, Sent("", topic, "", "")))
        self._when(admin.delete_topic(topic), lambda _: self.story.answer(op))

    def restart(self) -> None:
        """In good order."""
        self.rig.restart()
        self._written()
        self._watch()


_VERBS: Mapping[Callable[[Workload], None], int] = {
    Workload.send: 30,
    Workload.delay: 8,
    Workload.recall: 5,
    Workload.receive: 22,
    Workload.ack: 16,
    Workload.change: 6,
    Workload.bury: 4,
    Workload.fill: 8,
    Workload.later: 6,
    Workload.idle: 4,
    Workload.clean: 6,
    Workload.save: 4,
    Workload.come_and_go: 6,
    Workload.restart: 1,
}


class Undelayed(Workload):
    """Without delayed messages, as seeds know it that were found before there were any."""

    def verbs(self) -> Mapping[Callable[[Any], None], int]:
        """See Workload."""
        table = super().verbs()
        return {verb: table[verb] for verb in table if verb not in (Workload.delay, Workload.recall)}


def keys_of(sent: Sent) -> dict[str, str]:
    """As properties."""
    return {KEYS: sent.key} if sent.key else {}
