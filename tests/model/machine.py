"""The broker against a naive model of it: dicts and lists, no log, no queues (facts: store.md 6.11).

Held in every step: a message is delivered only if it was sent and wanted; never while it is invisible; with the attempt
that is next; never after an answered ack or as a dead letter; what is available is delivered, to polls that wait too; a
dead letter exists once. Of a message group nothing comes before all that was sent before it is settled, or is in the
same answer; acks count from its front. At the end all that was not settled is still there.
"""

import asyncio
import dataclasses
import functools
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from unittest import mock

import lmdb
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rmq.config import GroupSetting
from rmq.errors import Code
from rmq.filter import by_tag
from rmq.message import SHARDING_KEY, Delivered
from rmq.port import Answer, ReceiveRequest
from tests.rmq.rig import SMALL, Rig, config, outgoing, request

TOPICS = ("orders", "bills")
GROUPS: Mapping[str, str] = {"all": "*", "some": "a || Aa"}  # and their filters
TAGS = ("a", "b", "Aa", "BB", "")
CLIENTS = ("", "ann", "bob")  # "": not renewed by the server
ATTEMPTS_MAX = 3
RETRY_MS = 5_000
RENEW_MS = 60_000
RENEW_TOTAL_MS = 150_000
AUDITOR = "auditor"
POLLS_MAX = 4
PAIR = st.tuples(st.sampled_from(sorted(GROUPS)), st.sampled_from(TOPICS))
INVISIBLE = st.sampled_from((1_000, 30_000, 200_000))
FIFO_ROW = st.tuples(st.sampled_from(("a", "a", "b")), st.sampled_from(("x", "y")))  # tag and message group


@dataclasses.dataclass
class Sent:
    """A message as its sender knows it."""

    topic: str
    tag: str
    queue_id: int
    offset: int
    message_group: str = ""


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

    attempts: int = 0  # deliveries that count
    lease: Lease | None = None
    over: str = ""  # acked, dead, or gone with its segment; early: acked behind one of its message group that is not
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


class BrokerMachine(RuleBasedStateMachine):
    """Rules are the verbs and what may befall a server. `counts`: what happened, over all runs."""

    flush: ClassVar[str] = "fast"
    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        small: dict[str, object] = {**SMALL, "segment_bytes": 64 << 10, "log_bytes_max": 64 << 10}
        small |= {"data": str(self.folder / "data"), "topic_queues": 2, "flush_interval_ms": 1}
        groups = {group: GroupSetting(ATTEMPTS_MAX, (RETRY_MS,)) for group in GROUPS}
        self.rig = Rig(
            config(**small, flush=self.flush, groups=groups, auto_renew_ms=RENEW_MS, renew_total_ms_max=RENEW_TOTAL_MS)
        )
        self.sent: dict[str, Sent] = {}
        self.places: dict[tuple[str, str], Place] = {}  # (group, body)
        self.lines: dict[tuple[str, str, str], list[Place]] = {}  # (group, topic, message group)
        self.online: set[tuple[str, str]] = set()
        self.polls: list[tuple[ReceiveRequest, asyncio.Future[Sequence[Delivered]]]] = []
        self.dead: Counter[tuple[str, str]] = Counter()
        self.found_before: set[tuple[str, str]] = set()
        self.aged = 0

    @initialize()
    def subscribe(self) -> None:
        """Every group begins before the first message."""
        for group, topic in self._pairs():
            assert self.rig.receive(request(topic, group)) == []

    # -- rules -------------------------------------------------------------------------------------------------------

    @rule(topic=st.sampled_from(TOPICS), tags=st.lists(st.sampled_from(TAGS), min_size=1, max_size=4))
    def send(self, topic: str, tags: list[str]) -> None:
        """One call with as many messages as there are tags."""
        self._send(topic, [(tag, "") for tag in tags])

    @rule(topic=st.sampled_from(TOPICS), rows=st.lists(FIFO_ROW, min_size=1, max_size=5))
    def send_fifo(self, topic: str, rows: list[tuple[str, str]]) -> None:
        """Messages with a tag and a message group each."""
        self._send(topic, rows)
        self._count("sent in order", len(rows))

    def _send(self, topic: str, rows: list[tuple[str, str]]) -> None:
        names = [f"m{len(self.sent) + n}" for n in range(len(rows))]
        results = self.rig.send(
            *(
                outgoing(name, topic=topic, tag=tag, **({SHARDING_KEY: line} if line else {}))
                for name, (tag, line) in zip(names, rows, strict=True)
            )
        )
        for name, (tag, line), result in zip(names, rows, results, strict=True):
            self.sent[name] = Sent(topic, tag, result.queue_id, result.queue_offset, line)
            for group, wanted in GROUPS.items():
                if wanted == "*" or tag in by_tag(wanted).tags:  # type: ignore[operator]  # not `*`: it has tags
                    place = self.places[group, name] = Place()
                    if line:
                        place.line = self.lines.setdefault((group, topic, line), [])
                        place.line.append(place)
        self._count("sent", len(names))

    @precondition(lambda self: any(self._found()))
    @rule(pick=st.integers(0, 99), batch=st.integers(1, 5), client=st.sampled_from(CLIENTS), invisible_ms=INVISIBLE,
          fifo=st.booleans())  # fmt: skip
    def receive(self, pick: int, batch: int, client: str, invisible_ms: int, fifo: bool) -> None:
        """Where there is something."""
        found = list(self._found())
        group, topic = found[pick % len(found)]
        count = list(self._found(fifo=fifo)).count((group, topic))
        answer = self._ask(group, topic, batch, client, invisible_ms, fifo)
        assert not isinstance(answer, asyncio.Future)
        assert len(answer) == min(batch, count)
        self._count("received")

    @precondition(lambda self: len(self.polls) < POLLS_MAX)
    @rule(pair=PAIR, batch=st.integers(1, 5), client=st.sampled_from(CLIENTS), invisible_ms=INVISIBLE)
    def poll(self, pair: tuple[str, str], batch: int, client: str, invisible_ms: int) -> None:
        """Where there may be something, or has to be waited for."""
        answer = self._ask(*pair, batch, client, invisible_ms)
        assert isinstance(answer, asyncio.Future) or pair in self.found_before
        self._count("polled")

    def _ask(
        self, group: str, topic: str, batch: int, client: str, invisible_ms: int, fifo: bool = False
    ) -> Answer[Sequence[Delivered]]:
        wanted = request(
            topic, group, batch=batch, tag=GROUPS[group], invisible_ms=invisible_ms, client_id=client or "simple",
            auto_renew=bool(client), poll_ms=600_000, fifo=fifo,
        )  # fmt: skip
        if client:
            self.online.add((group, client))
        self.found_before = set(self._found())
        answer = self.rig.broker.receive(wanted)
        if isinstance(answer, asyncio.Future):
            assert (group, topic) not in self.found_before
            self.polls.append((wanted, answer))
        else:
            self._take(wanted, answer)
        self.rig.turn()
        return answer

    @precondition(lambda self: self.polls)
    @rule()
    def cancel(self) -> None:
        """The longest waiting poll is left."""
        self.polls.pop(0)[1].cancel()
        self.rig.turn()

    @precondition(lambda self: any(self._held()))
    @rule(pick=st.integers(0, 99), times=st.integers(1, 2))
    def ack(self, pick: int, times: int) -> None:
        """A valid handle; once more, perhaps."""
        group, name, place, lease = self._pick(pick)
        outcomes = self.rig.ack(*[lease.handle] * times, topic=self.sent[name].topic, group=group)
        assert outcomes == [None] * times
        early = not all(before.is_settled for before in place.before)
        self._leave(place, "early" if early else "acked")
        self._count("acked early" if early else "acked")

    @precondition(lambda self: any(place.old_handles for place in self.places.values()))
    @rule(pick=st.integers(0, 99))
    def ack_old(self, pick: int) -> None:
        """A handle that is none any more changes nothing, and is told so where the message is not settled."""
        held = [(key, handle) for key, place in self.places.items() for handle in place.old_handles]
        (group, name), handle = held[-1 - pick % len(held)]
        (outcome,) = self.rig.ack(handle, topic=self.sent[name].topic, group=group)
        assert self.places[group, name].over or (outcome and outcome.code is Code.INVALID_RECEIPT_HANDLE)
        self._count("old handles")

    @precondition(lambda self: any(self._held()))
    @rule(pick=st.integers(0, 99), invisible_ms=st.sampled_from((0, 500, 20_000)), suspend=st.booleans())
    def change_invisible(self, pick: int, invisible_ms: int, suspend: bool) -> None:
        """Another end, under another handle."""
        group, name, place, lease = self._pick(pick)
        topic = self.sent[name].topic
        answer = self.rig.broker.change_invisible(group, topic, lease.handle, invisible_ms, suspend=suspend)
        place.old_handles.append(lease.handle)
        place.attempts -= suspend and not lease.suspended
        now_ms = self._now_ms()
        suspended = suspend or lease.suspended
        place.lease = Lease(self.rig.wait(answer), now_ms, now_ms + invisible_ms, suspended=suspended)
        if invisible_ms == 0:
            self._end(place)
        self._count("changed")

    @precondition(lambda self: any(self._held()))
    @rule(pick=st.integers(0, 99))
    def dead_letter(self, pick: int) -> None:
        """Before its attempts are used up, as a client may."""
        group, name, place, lease = self._pick(pick)
        self.rig.wait(self.rig.broker.dead_letter(group, self.sent[name].topic, lease.handle))
        self._leave(place, "dead")
        self._count("buried")

    @precondition(lambda self: any(self._held()))
    @rule(ms=st.sampled_from((1, 499, 1_000, 29_999, 60_000, 151_000)))
    def advance(self, ms: int) -> None:
        """Time passes."""
        self.rig.advance(ms)
        self._expire()
        self._count("advance")

    @precondition(lambda self: self.online)
    @rule(group=st.sampled_from(sorted(GROUPS)), client=st.sampled_from(CLIENTS[1:]))
    def offline(self, group: str, client: str) -> None:
        """A client is gone: what it holds ends in a second."""
        self.rig.broker.offline(group, client)
        self.online.discard((group, client))
        for owner, _, _, lease in self._held():
            if (owner, lease.client) == (group, client):
                lease.client, lease.due_ms = "", self._now_ms() + 1_000

    @precondition(lambda self: any(self._held()) or any(place.old_handles for place in self.places.values()))
    @rule(kill=st.booleans(), pause_ms=st.sampled_from((0, 1_000, 70_000)))
    def restart(self, kill: bool, pause_ms: int) -> None:
        """In good order, or as kill -9; polls end."""
        self._collect()
        before = self.rig.config.data
        (self.rig.crash if kill else self.rig.restart)(pause_ms=pause_ms)
        if kill:
            shutil.rmtree(before)
        self.polls.clear()
        self.online = set(self.rig.broker.recovered_clients)
        now_ms = self._now_ms()
        for _, _, _, lease in self._held():
            if lease.client:
                lease.due_ms = now_ms + RENEW_MS
        self._expire()
        self._count("killed" if kill else "restarted")

    @precondition(lambda self: len(self.sent) > self.aged)
    @rule()
    def age(self) -> None:
        """Old segments go: what was never delivered goes with them, what was delivered and not settled lives on."""
        self.rig.send(*(outgoing("x" * 8_000, topic="filler") for _ in range(10)))
        self.rig.clean()
        topics = {name: self.rig.broker.topics.find(name) for name in TOPICS}
        for (_, name), place in self.places.items():
            sent = self.sent[name]
            topic = topics[sent.topic]
            if place.is_new and topic is not None and sent.offset < topic.queues[sent.queue_id].min_offset:
                place.over = "gone"
        self.aged = len(self.sent)
        self._count("cleaned")

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def polls_are_served(self) -> None:
        """No poll waits for what is there."""
        self._collect()
        for wanted, _ in self.polls:
            assert (wanted.group, wanted.topic) not in self._found(), "a poll waits though there are messages"

    @invariant()
    def dead_letters_exist_once(self) -> None:
        """Each when its message is over, and none besides."""
        self.rig.settle()
        for group in GROUPS:
            letters = self.rig.receive(request(f"%DLQ%{group}", AUDITOR, batch=32))
            self.rig.ack(*(letter.handle for letter in letters), topic=f"%DLQ%{group}", group=AUDITOR)
            for letter in letters:
                name = letter.body.decode()
                self.dead[group, name] += 1
        assert self.dead == Counter({key: 1 for key, place in self.places.items() if place.over == "dead"})

    def teardown(self) -> None:
        """Nothing is lost: all that is not over still comes, and then nothing more, not even after a crash."""
        try:
            self._drain()
        finally:
            self.rig.close()
            shutil.rmtree(self.folder)

    def _drain(self) -> None:
        self._collect()
        for _, waiting in self.polls:
            waiting.cancel()
        for group, client in [(g, c) for g in GROUPS for c in CLIENTS[1:]]:
            self.offline(group, client)
        self.advance(500_000)
        for group, topic in [*self._pairs()]:
            wanted = request(topic, group, batch=32, tag=GROUPS[group])
            while messages := self.rig.receive(wanted):
                self._take(wanted, messages)
                for message in messages:
                    self.rig.ack(message.handle, topic=topic, group=group)
                    self._leave(self.places[group, message.body.decode()], "acked")
        self.dead_letters_exist_once()
        lost = [key for key, place in self.places.items() if not place.is_settled]
        assert not lost, f"lost: {lost}"
        self.rig.crash(pause_ms=500_000)
        for group, topic in self._pairs():
            assert self.rig.receive(request(topic, group, batch=32, tag=GROUPS[group])) == []
        self._count("runs")

    # -- the model ---------------------------------------------------------------------------------------------------

    def _pairs(self) -> list[tuple[str, str]]:
        return [(group, topic) for group in GROUPS for topic in TOPICS]

    def _now_ms(self) -> int:
        return self.rig.clock.lease_ms()

    def _count(self, what: str, count: int = 1) -> None:
        self.counts[what] += count

    def _found(self, *, fifo: bool = False) -> Iterator[tuple[str, str]]:
        """(group, topic) of each message that a receive has to find."""
        for (group, name), place in self.places.items():
            if place.is_available(fifo=fifo):
                yield group, self.sent[name].topic

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
        if over:
            place.settle_line()
        else:
            place.undo_acks()

    def _collect(self) -> None:
        """Polls that were answered meanwhile."""
        for wanted, answer in [poll for poll in self.polls if poll[1].done()]:
            self._take(wanted, answer.result())
        self.polls = [poll for poll in self.polls if not poll[1].done()]

    def _take(self, wanted: ReceiveRequest, messages: Sequence[Delivered]) -> None:
        assert len(messages) <= wanted.batch
        here: list[Place] = []
        for message in messages:
            name = message.body.decode()
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


def play(machine: type[BrokerMachine], how: settings) -> None:
    """Runs it without syncs: kill -9 does not need them, and the disk is what takes the time. Nor is a failure shrunk,
    which takes minutes; it prints its steps.
    """
    unsynced = functools.partial(lmdb.open, sync=False)
    with mock.patch.object(os, "fsync"), mock.patch.object(os, "fdatasync"), mock.patch.object(lmdb, "open", unsynced):
        run_state_machine_as_test(
            machine, settings=settings(how, deadline=None, database=None, phases=[Phase.generate])
        )
