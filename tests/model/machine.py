"""The broker against its model (model.py), under simulation (tests/sim): the rules and what must hold.

Held in every step: a message is delivered only if it was sent and wanted; never while it is invisible; with the attempt
that is next; never after an answered ack or as a dead letter; what is available is delivered, to polls that wait too; a
dead letter exists once. Of a message group nothing comes before all that was sent before it is settled, or is in the
same answer; acks count from its front. At the end all that was not settled is still there.
"""

import asyncio
import contextlib
from collections import Counter

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from rmq.errors import ClientError, Code
from rmq.message import PRIORITY, SHARDING_KEY
from tests.model import ranks
from tests.model.crashes import PAUSE, Crashes
from tests.model.model import ALL_TOPICS, AUDITOR, CLIENTS, GROUPS, TAGS, TOPICS, Lease, Place, Sent
from tests.rmq.rig import outgoing, request
from tests.sim.rig import quiet, unsynced

POLLS_MAX = 4
PAIR = st.tuples(st.sampled_from(sorted(GROUPS)), st.sampled_from(ALL_TOPICS))
INVISIBLE = st.sampled_from((1_000, 30_000, 200_000))
FIFO_ROW = st.tuples(st.sampled_from(("a", "a", "b")), st.sampled_from(("x", "y")))  # tag and message group


class BrokerMachine(Crashes):
    """Rules are the verbs, and what may befall a server."""

    @initialize()
    def subscribe(self) -> None:
        """Every group begins before the first message."""
        for group, topic in self._pairs():
            assert self.rig.receive(request(topic, group)) == []

    # -- rules -------------------------------------------------------------------------------------------------------

    @rule(topic=st.sampled_from(ALL_TOPICS), tags=st.lists(st.sampled_from(TAGS), min_size=1, max_size=4))
    def send(self, topic: str, tags: list[str]) -> None:
        """One call with as many messages as there are tags."""
        self._send(topic, [(tag, "") for tag in tags])

    @rule(topic=st.sampled_from(TOPICS), rows=st.lists(FIFO_ROW, min_size=1, max_size=5))
    def send_fifo(self, topic: str, rows: list[tuple[str, str]]) -> None:
        """Messages with a tag and a message group each."""
        self._send(topic, rows)
        self._count("sent in order", len(rows))

    @rule(rows=st.lists(st.tuples(st.sampled_from(TAGS), st.integers(0, ranks.QUEUES)), min_size=1, max_size=5))
    def send_ranked(self, rows: list[tuple[str, int]]) -> None:
        """Messages with a tag and a priority each; the queue is the priority, at most the last."""
        messages = [
            outgoing(self._next_name(), topic=ranks.TOPIC, tag=tag, **{PRIORITY: str(rank)}) for tag, rank in rows
        ]
        for message, (tag, rank), result in zip(messages, rows, self.rig.send(*messages), strict=True):
            assert result.queue_id == min(rank, ranks.QUEUES - 1)
            self._stored(message.body.decode(), Sent(ranks.TOPIC, tag, result.queue_id, result.queue_offset))
        self._count("sent with priority", len(rows))

    def _send(self, topic: str, rows: list[tuple[str, str]]) -> None:
        messages = [
            outgoing(self._next_name(), topic=topic, tag=tag, **({SHARDING_KEY: line} if line else {}))
            for tag, line in rows
        ]
        for message, (tag, line), result in zip(messages, rows, self.rig.send(*messages), strict=True):
            self._stored(message.body.decode(), Sent(topic, tag, result.queue_id, result.queue_offset, line))
        self._count("sent", len(rows))

    @precondition(lambda self: any(self._found()))
    @rule(pick=st.integers(0, 99), batch=st.integers(1, 5), client=st.sampled_from(CLIENTS), invisible_ms=INVISIBLE,
          fifo=st.booleans())  # fmt: skip
    def receive(self, pick: int, batch: int, client: str, invisible_ms: int, fifo: bool) -> None:
        """Where there is something."""
        found = list(self._found())
        group, topic = found[pick % len(found)]
        count = list(self._found(fifo=fifo)).count((group, topic))
        answer = self._ask(group, topic, batch, client, invisible_ms, fifo=fifo)
        assert not isinstance(answer, asyncio.Future)
        assert len(answer) == min(batch, count)
        self._count("received")

    @precondition(lambda self: len(self.polls) < POLLS_MAX)
    @rule(pair=PAIR, batch=st.integers(1, 5), client=st.sampled_from(CLIENTS), invisible_ms=INVISIBLE)
    def poll(self, pair: tuple[str, str], batch: int, client: str, invisible_ms: int) -> None:
        """Where there may be something, or has to be waited for."""
        is_there = pair in self._found()
        answer = self._ask(*pair, batch, client, invisible_ms)
        assert isinstance(answer, asyncio.Future) or is_there
        self._count("polled")

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
        self._ack(*self._pick(pick), times)

    @precondition(lambda self: any(place.when_acked == "early" for _, _, place, _ in self._held()))
    @rule(pick=st.integers(0, 99))
    def ack_early(self, pick: int) -> None:
        """Behind one of its message group that is not settled."""
        behind = [one for one in self._held() if one[2].when_acked == "early"]
        self._ack(*behind[pick % len(behind)], times=1)

    def _ack(self, group: str, name: str, place: Place, lease: Lease, times: int) -> None:
        outcomes = self.rig.ack(*[lease.handle] * times, topic=self.sent[name].topic, group=group)
        assert outcomes == [None] * times
        self._leave(place, place.when_acked)
        self._count(place.over)

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
        self._offline(group, client)

    def _offline(self, group: str, client: str) -> None:
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
        self._all_is_safe()
        self.rig.restart(pause_ms=pause_ms)
        self._after_start()
        self._count("restarted")

    @rule(topic=st.sampled_from(TOPICS))
    def fill(self, topic: str) -> None:
        """There is no room: what was sent is refused, or found room that was reserved; then there is room again."""
        self.rig.faults.room_bytes = 0
        with contextlib.suppress(ClientError):
            self.send(topic, ["a"] * 4)
        self.rig.faults.disarm()
        self._count("filled")

    @precondition(lambda self: len(self.sent) > self.aged)
    @rule()
    def age(self) -> None:
        """Old segments go: what was never delivered goes with them, what was delivered and not settled lives on."""
        self.rig.send(*(outgoing("x" * 8_000, topic="filler") for _ in range(10)))
        self.rig.clean()
        topics = {name: self.rig.broker.topics.find(name) for name in {sent.topic for sent in self.sent.values()}}
        for (group, name), place in self.places.items():
            sent = self.sent[name]
            topic = topics[sent.topic]
            if place.is_new and topic is not None and sent.offset < topic.queues[sent.queue_id].min_offset:
                place.over = "" if self._seen(group, sent) == "ready 0" else "gone"  # in doubt since a power cut: open
        self.aged = len(self.sent)
        self._count("cleaned")

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def polls_are_served(self) -> None:
        """No poll waits for what is there."""
        self._count("steps")
        self._collect()
        for wanted, _ in self.polls:
            assert not self._is_there(wanted), "a poll waits though there are messages"

    @invariant()
    def dead_letters_exist_once(self) -> None:
        """Each when its message is over, and none besides. They are read where something may have become of them."""
        if self._letters() == self.letters_seen:
            return
        self.rig.settle()
        for group in self.owners:
            while letters := self.rig.receive(request(f"%DLQ%{group}", AUDITOR, batch=32)):  # one of a message group
                self.rig.ack(*(letter.handle for letter in letters), topic=f"%DLQ%{group}", group=AUDITOR)
                self.dead.update((group, letter.body.decode()) for letter in letters)
        deaths = {key: place.deaths + (place.over == "dead") for key, place in self.places.items()}
        assert self.dead == Counter({key: count for key, count in deaths.items() if count})
        self.letters_seen = self._letters()

    def _letters(self) -> list[int]:
        """How many there are, as the model knows and as the broker does."""
        topics = [self.rig.broker.topics.find(f"%DLQ%{group}") for group in self.owners]
        dead = sum(place.deaths + (place.over == "dead") for place in self.places.values())
        return [dead, *(topic.queues[0].max_offset for topic in topics if topic)]

    def teardown(self) -> None:
        """Nothing is lost: all that is not over still comes, and then nothing more, not even after a crash."""
        with self.owned:
            self._drain()

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


def play(machine: type[BrokerMachine], how: settings) -> None:
    """Runs it. A failure is not shrunk, which takes minutes; it prints its steps."""
    with unsynced(), quiet():
        run_state_machine_as_test(
            machine, settings=settings(how, deadline=None, database=None, phases=[Phase.generate])
        )
