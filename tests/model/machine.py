"""The broker against a naive model of it: dicts and lists, no log, no queues (facts: store.md 6.11).

Held in every step: a message is delivered only if it was sent and wanted; never while it is invisible; with the attempt
that is next; never after an answered ack or as a dead letter; what is available is delivered, to polls that wait too; a
dead letter exists once. At the end all that was not settled is still there.
"""

import asyncio
import contextlib
import dataclasses
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

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

from rmq.config import Config, GroupSetting
from rmq.errors import ClientError, Code
from rmq.filter import by_tag
from rmq.handle import HandleMaker
from rmq.message import Delivered
from rmq.port import Answer, ReceiveRequest
from rmq_store import consumequeue, segment
from rmq_store.errors import StoreError
from tests.rmq.rig import SMALL, config, outgoing, request
from tests.sim.disk import SimDisk
from tests.sim.rig import SimRig, unsynced

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
PAUSE = st.sampled_from((0, 1_000, 70_000))
VERB = st.sampled_from(("send", "receive", "ack", "bury"))
FAULT = st.sampled_from((("write", 0), ("write", 0), ("write", 1), ("write", 2), ("sync", 1), ("sync", 2)))
END = st.sampled_from(("killed", "power cut", "power cut, checkpoint lost"))
INVISIBLE = st.sampled_from((1_000, 30_000, 200_000))


@dataclasses.dataclass
class Sent:
    """A message as its sender knows it."""

    topic: str
    tag: str
    queue_id: int
    offset: int


@dataclasses.dataclass
class Lease:
    """Who has a message, and when that ends."""

    handle: str
    taken_ms: int
    due_ms: int
    client: str = ""  # renewed by the server while this one is online
    suspended: bool = False  # the delivery does not count


@dataclasses.dataclass
class Place:
    """One message for one group. Without a lease it is available, unless it is over."""

    attempts: int = 0  # deliveries that count
    lease: Lease | None = None
    over: str = ""  # acked, dead, or gone with its segment
    old_handles: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_new(self) -> bool:
        return not self.old_handles and self.lease is None and not self.over


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
        self.rig = self._make_rig(
            config(**small, flush=self.flush, groups=groups, auto_renew_ms=RENEW_MS, renew_total_ms_max=RENEW_TOTAL_MS)
        )
        self.sent: dict[str, Sent] = {}
        self.places: dict[tuple[str, str], Place] = {}  # (group, body)
        self.online: set[tuple[str, str]] = set()
        self.polls: list[tuple[ReceiveRequest, asyncio.Future[Sequence[Delivered]]]] = []
        self.dead: Counter[tuple[str, str]] = Counter()
        self.letters_seen: list[int] = []
        self.found_before: set[tuple[str, str]] = set()
        self.named = 0
        self.unanswered: dict[str, tuple[str, str]] = {}  # sends that may or may not be stored: topic, tag
        self.past: dict[int, list[Place]] = {}  # what each place was, since everything was safe
        self.aged = 0

    def _make_rig(self, settings: Config) -> SimRig:
        rig = SimRig(settings, self.folder / "checkpoint", SimDisk(), random.Random(0))
        rig.before_tick = self._resolve
        return rig

    @initialize()
    def subscribe(self) -> None:
        """Every group begins before the first message."""
        for group, topic in self._pairs():
            assert self.rig.receive(request(topic, group)) == []

    # -- rules -------------------------------------------------------------------------------------------------------

    @rule(topic=st.sampled_from(TOPICS), tags=st.lists(st.sampled_from(TAGS), min_size=1, max_size=4))
    def send(self, topic: str, tags: list[str]) -> None:
        """One call with as many messages as there are tags."""
        names = [self._new_name() for _ in tags]
        results = self.rig.send(*(outgoing(name, topic=topic, tag=tag) for name, tag in zip(names, tags, strict=True)))
        for name, tag, result in zip(names, tags, results, strict=True):
            self._stored(name, Sent(topic, tag, result.queue_id, result.queue_offset))
        self._count("sent", len(names))

    def _new_name(self) -> str:
        self.named += 1
        return f"m{self.named}"

    def _stored(self, name: str, sent: Sent) -> None:
        self.sent[name] = sent
        for group, wanted in GROUPS.items():
            if wanted == "*" or sent.tag in by_tag(wanted).tags:  # type: ignore[operator]  # not `*`: it has tags
                self.places[group, name] = Place()

    @precondition(lambda self: any(self._found()))
    @rule(pick=st.integers(0, 99), batch=st.integers(1, 5), client=st.sampled_from(CLIENTS), invisible_ms=INVISIBLE)
    def receive(self, pick: int, batch: int, client: str, invisible_ms: int) -> None:
        """Where there is something."""
        found = list(self._found())
        group, topic = found[pick % len(found)]
        answer = self._ask(group, topic, batch, client, invisible_ms)
        assert not isinstance(answer, asyncio.Future)
        assert len(answer) == min(batch, found.count((group, topic)))
        self._count("received")

    @precondition(lambda self: len(self.polls) < POLLS_MAX)
    @rule(pair=PAIR, batch=st.integers(1, 5), client=st.sampled_from(CLIENTS), invisible_ms=INVISIBLE)
    def poll(self, pair: tuple[str, str], batch: int, client: str, invisible_ms: int) -> None:
        """Where there may be something, or has to be waited for."""
        answer = self._ask(*pair, batch, client, invisible_ms)
        assert isinstance(answer, asyncio.Future) or pair in self.found_before
        self._count("polled")

    def _ask(
        self, group: str, topic: str, batch: int, client: str, invisible_ms: int, turns: int = 4
    ) -> Answer[Sequence[Delivered]]:
        wanted = request(
            topic, group, batch=batch, tag=GROUPS[group], invisible_ms=invisible_ms, client_id=client or "simple",
            auto_renew=bool(client), poll_ms=600_000,
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
        self.rig.turn(turns)
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
        self._leave(place, "acked")
        self._count("acked")

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
    @rule(pause_ms=PAUSE)
    def restart(self, pause_ms: int) -> None:
        """In good order; polls end."""
        self._collect()
        self.rig.restart(pause_ms=pause_ms)
        self._after_start()
        self._count("restarted")

    @rule(verbs=st.lists(st.tuples(VERB, st.integers(0, 99)), max_size=4), turns=st.integers(0, 3), fault=FAULT,
          seed=st.integers(0, 1 << 30), pause_ms=PAUSE, end=END)  # fmt: skip
    def crash(
        self,
        verbs: list[tuple[str, int]],
        turns: int,
        fault: tuple[str, int],
        seed: int,
        pause_ms: int,
        end: str,
    ) -> None:
        """In the midst of verbs that nobody has the answer of: each of them is done or not, and nothing else is."""
        self._collect()
        self.rig.settle()
        self.past = {}
        self.rig.faults.arm(fault[0], segment.FOLDER, fault[1])
        for verb, pick in verbs:
            with contextlib.suppress(StoreError):
                getattr(self, "_begin_" + verb)(pick)
            self.rig.turn(turns)
        self._collect()
        self.rig.faults.disarm()
        self.rig.end_life(end, random.Random(seed), pause_ms=pause_ms)
        self._after_start()
        self._count(end)

    @rule(operation=st.sampled_from(("write", "sync")), left=st.integers(1, 4))
    def break_checkpoint(self, operation: str, left: int) -> None:
        """One of the next checkpoints cannot be written."""
        self.rig.faults.arm(operation, consumequeue.FOLDER, left)

    @rule(topic=st.sampled_from(TOPICS))
    def fill(self, topic: str) -> None:
        """There is no room: what was sent is refused, or found room that was reserved; then there is room again."""
        self.rig.faults.room_bytes = 0
        try:
            self.send(topic, ["a"] * 4)
        except ClientError as error:
            assert error.code is Code.INTERNAL_SERVER_ERROR
            self._count("refused")
        self.rig.faults.disarm()

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

    # -- verbs that a crash cuts off ---------------------------------------------------------------------------------

    def _begin_send(self, pick: int) -> None:
        topic, tag, name = TOPICS[pick % 2], TAGS[pick % len(TAGS)], self._new_name()
        self.unanswered[name] = topic, tag
        self.rig.broker.send([outgoing(name, topic=topic, tag=tag)])

    def _begin_receive(self, pick: int) -> None:
        if found := list(self._found()):
            group, topic = found[pick % len(found)]
            self._ask(group, topic, 1 + pick % 5, CLIENTS[pick % 3], 30_000, turns=0)

    def _begin_ack(self, pick: int) -> None:
        if any(self._held()):
            group, name, place, lease = self._pick(pick)
            self._changes(place)
            self._leave(place, "acked")
            self.rig.broker.ack(group, self.sent[name].topic, [lease.handle])

    def _begin_bury(self, pick: int) -> None:
        if any(self._held()):
            group, name, place, lease = self._pick(pick)
            self._changes(place)
            self._leave(place, "dead")
            self.rig.broker.dead_letter(group, self.sent[name].topic, lease.handle)

    def _changes(self, place: Place) -> None:
        self.past.setdefault(id(place), []).append(dataclasses.replace(place, old_handles=[*place.old_handles]))

    # -- after a start -----------------------------------------------------------------------------------------------

    def _after_start(self) -> None:
        self.polls.clear()
        self.online = set(self.rig.broker.recovered_clients)
        now_ms = self._now_ms()
        for _, _, _, lease in self._held():
            if lease.client:
                lease.due_ms = now_ms + RENEW_MS
        self._expire()

    def _resolve(self) -> None:
        """Before time goes on: each place is found as it was at some moment since everything was safe."""
        self._find_unanswered()
        for (group, name), place in self.places.items():
            seen = self._seen(group, self.sent[name])
            if place.over == "gone" and seen == "new":
                place.over = ""  # its segment was still there
            maker = HandleMaker(group, self.sent[name].topic)
            candidates = [*self.past.get(id(place), ()), place]
            found = next((one for one in reversed(candidates) if self._is(one, seen, maker)), None)
            assert found is not None, f"{name} of {group} is {seen}, and was never since all was safe: {candidates}"
            if found is not place:
                vars(place).update(vars(found))
                self._count("undone")
        self.past.clear()

    def _find_unanswered(self) -> None:
        store = self.rig.broker._store
        for topic_name in {topic for topic, _ in self.unanswered.values()}:
            topic = self.rig.broker.topics.find(topic_name)
            for queue in topic.queues if topic else ():
                for offset in range(queue.min_offset, queue.max_offset):
                    record = store.read(queue, offset, queue.read(offset, 1)[0])
                    name = record.body.decode() if record else ""
                    if name in self.unanswered:
                        self._stored(name, Sent(*self.unanswered.pop(name), queue.queue_id, offset))
                        self._count("sends found")
        self.unanswered.clear()

    def _seen(self, group: str, sent: Sent) -> str | int:
        """`new`, `over`, the sequence of a delivery that lasts, or `ready` and the number of deliveries."""
        store = self.rig.broker._store
        ledger = store.state.leases.subscription(group, sent.topic).ledger(sent.queue_id)
        queue = store.state.queue(sent.topic, sent.queue_id)
        assert queue is not None
        found = ledger.find(sent.offset)
        if sent.offset >= max(ledger.next, queue.min_offset):
            return "new"
        if found is None:
            return "over"
        if found.lease is None or found.lease.due_ms <= self._now_ms():
            return f"ready {found.attempt}"
        return found.lease.sequence

    def _is(self, place: Place, seen: str | int, maker: HandleMaker) -> bool:
        lease = place.lease
        if isinstance(seen, int):
            return lease is not None and maker.parse(lease.handle).sequence == seen
        if lease is not None:
            return lease.due_ms <= self._now_ms() and seen == f"ready {place.attempts}"
        if place.is_new:
            return seen in ("new", "ready 0")  # the latter where what came before it in the log is lost
        return seen == ("over" if place.over else f"ready {place.attempts}")

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def polls_are_served(self) -> None:
        """No poll waits for what is there."""
        self._count("steps")
        self._collect()
        for wanted, _ in self.polls:
            assert (wanted.group, wanted.topic) not in self._found(), "a poll waits though there are messages"

    @invariant()
    def dead_letters_exist_once(self) -> None:
        """Each when its message is over, and none besides. They are read where something may have become of them."""
        if self._letters() == self.letters_seen:
            return
        self.rig.settle()
        for group in GROUPS:
            letters = self.rig.receive(request(f"%DLQ%{group}", AUDITOR, batch=32))
            self.rig.ack(*(letter.handle for letter in letters), topic=f"%DLQ%{group}", group=AUDITOR)
            for letter in letters:
                name = letter.body.decode()
                self.dead[group, name] += 1
        assert self.dead == Counter({key: 1 for key, place in self.places.items() if place.over == "dead"})
        self.letters_seen = self._letters()

    def _letters(self) -> list[int]:
        """How many there are, as the model knows and as the broker does."""
        topics = [self.rig.broker.topics.find(f"%DLQ%{group}") for group in GROUPS]
        dead = sum(place.over == "dead" for place in self.places.values())
        return [dead, *(topic.queues[0].max_offset for topic in topics if topic)]

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
        lost = [key for key, place in self.places.items() if not place.over]
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

    def _found(self) -> Iterator[tuple[str, str]]:
        """(group, topic) of each message that a receive has to find."""
        for (group, name), place in self.places.items():
            if place.lease is None and not place.over:
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

    def _collect(self) -> None:
        """Polls that were answered meanwhile."""
        for wanted, answer in [poll for poll in self.polls if poll[1].done()]:
            self._take(wanted, answer.result())
        self.polls = [poll for poll in self.polls if not poll[1].done()]

    def _take(self, wanted: ReceiveRequest, messages: Sequence[Delivered]) -> None:
        assert len(messages) <= wanted.batch
        for message in messages:
            name = message.body.decode()
            if name in self.unanswered:
                self._stored(name, Sent(*self.unanswered.pop(name), message.queue_id, message.queue_offset))
            assert name in self.sent, f"never sent: {name}"
            sent = self.sent[name]
            place = self.places.get((wanted.group, name))
            assert place is not None, f"{name} is not wanted by {wanted.group}"
            where = (message.topic, message.queue_id, message.queue_offset, message.properties.get("TAGS", ""))
            assert where == (sent.topic, sent.queue_id, sent.offset, sent.tag)
            assert message.properties["UNIQ_KEY"] == f"id-{name}"
            self._deliver(wanted, place, message)
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


def play(machine: type[BrokerMachine], how: settings) -> None:
    """Runs it. A failure is not shrunk, which takes minutes; it prints its steps."""
    with unsynced():
        run_state_machine_as_test(
            machine, settings=settings(how, deadline=None, database=None, phases=[Phase.generate])
        )
