"""What befalls a process and its machine in the midst of verbs, and how the model finds its way again.

A crash comes when some verbs are under way: killed, or with the power cut, perhaps after a call of the disk failed.
Afterwards each message is, for each group, as it was at some moment since all was safe; the model takes the latest
that fits. All that had been answered is safe.
"""

import contextlib
import dataclasses
import random

from hypothesis import strategies as st
from hypothesis.stateful import rule

from rmq.expiry import ANSWER_MS
from rmq.handle import HandleMaker
from rmq_store import consumequeue, segment
from rmq_store.errors import StoreError
from rmq_store.lines import Lines
from tests.model.model import CLIENTS, RENEW_MS, TAGS, TOPICS, Model, Place, Sent, to_be_found
from tests.rmq.rig import outgoing

PAUSE = st.sampled_from((0, 1_000, 70_000))
VERB = st.sampled_from(("send", "receive", "ack", "bury"))
FAULT = st.sampled_from((("write", 0), ("write", 0), ("write", 1), ("write", 2), ("sync", 1), ("sync", 2)))
END = st.sampled_from(("killed", "power cut", "power cut, checkpoint lost"))


class Crashes(Model):
    """The rules of it."""

    def __init__(self) -> None:
        super().__init__()
        self.rig.before_tick = self._resolve
        self.trusted_ms = 0  # of receives: see _trust

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
        self._all_is_safe()
        self.rig.faults.arm(fault[0], segment.FOLDER, fault[1])
        for verb, pick in verbs:
            with contextlib.suppress(StoreError):
                getattr(self, "_begin_" + verb)(pick)
            self.rig.turn(turns)
            self._collect()  # an ack may have brought the next of its message group to a poll
        self.rig.faults.disarm()
        self.rig.end_life(end, random.Random(seed), pause_ms=pause_ms)
        self._after_start()
        self._count(end)

    @rule(operation=st.sampled_from(("write", "sync")), left=st.integers(1, 4))
    def break_checkpoint(self, operation: str, left: int) -> None:
        """One of the next checkpoints cannot be written."""
        self.rig.faults.arm(operation, consumequeue.FOLDER, left)

    # -- verbs that a crash cuts off ---------------------------------------------------------------------------------

    def _begin_send(self, pick: int) -> None:
        topic, tag, name = TOPICS[pick % 2], TAGS[pick % len(TAGS)], self._next_name()
        self.unanswered[name] = to_be_found(topic, tag)
        self.rig.broker.send([outgoing(name, topic=topic, tag=tag)])

    def _begin_receive(self, pick: int) -> None:
        if found := list(self._found()):
            group, topic = found[pick % len(found)]
            self._ask(group, topic, 1 + pick % 5, CLIENTS[pick % 3], 30_000, turns=0)

    def _begin_ack(self, pick: int) -> None:
        if any(self._held()):
            group, name, place, lease = self._pick(pick)
            self._changes(place)
            if any(id(before) in self.past for before in place.before):  # whose own end may never have been made
                handles = [*place.old_handles, lease.handle]
                early = dataclasses.replace(place, lease=None, over="early", old_handles=handles)
                self.past[id(place)].append(early)
            self._leave(place, place.when_acked)
            self.rig.broker.ack(group, self.sent[name].topic, [lease.handle])

    def _begin_bury(self, pick: int) -> None:
        if any(self._held()):
            group, name, place, lease = self._pick(pick)
            self._changes(place)
            self._leave(place, "dead")
            self.rig.broker.dead_letter(group, self.sent[name].topic, lease.handle)

    def _all_is_safe(self) -> None:
        """What was before cannot come back."""
        self.past = {}

    # -- after a start -----------------------------------------------------------------------------------------------

    def _after_start(self) -> None:
        self.polls.clear()
        self.ranks.begin_anew()
        self.online = set(self.rig.broker.recovered_clients)
        due_ms = self._now_ms() + RENEW_MS
        for _, _, _, lease in self._held():
            if lease.client:
                lease.due_ms = due_ms
                lease.client = lease.client if lease.taken_ms <= self.trusted_ms else ""
        self._expire()

    def _trust(self) -> None:
        """What was received later than `trusted_ms` is not renewed any more: whether a crash let its answer arrive,
        nobody knows.
        """
        store = self.rig.broker._store
        last_ms = max((lease.taken_ms for lease in store.state.leases.leases.values()), default=0)
        self.trusted_ms = last_ms - ANSWER_MS if store.report.records else last_ms

    def _resolve(self) -> None:
        """Before time goes on: each place is found as it was at some moment since everything was safe."""
        self._trust()
        self._find_unanswered()
        for (group, name), place in self.places.items():
            seen = self._seen(group, self.sent[name])
            maker = HandleMaker(group, self.sent[name].topic)
            candidates = [*self.past.get(id(place), ()), place]
            for one in candidates:
                if one.over == "gone" and seen == "new":
                    one.over = ""  # its segment was still there
            found = next((one for one in reversed(candidates) if self._is(one, seen, maker)), None)
            assert found is not None, f"{name} of {group} is {seen}, and was never since all was safe: {candidates}"
            if found is not place:
                vars(place).update(vars(found))
                self._count("undone")
        self.past.clear()

    def _find_unanswered(self) -> None:
        store = self.rig.broker._store
        for topic_name in {sent.topic for sent in self.unanswered.values()}:
            topic = self.rig.broker.topics.find(topic_name)
            for queue in topic.queues if topic else ():
                for offset in range(queue.min_offset, queue.max_offset):
                    record = store.read(queue, offset, queue.read(offset, 1)[0])
                    name = record.body.decode() if record else ""
                    if name in self.unanswered:
                        self._stored(name, self.unanswered.pop(name).at(queue.queue_id, offset))
                        self._count("sends found")
        self.unanswered.clear()

    def _seen(self, group: str, sent: Sent) -> str | int:
        """`new`, `over`, `early` (acked behind others), the sequence of a delivery that lasts, or `ready` and the
        number of deliveries.
        """
        store = self.rig.broker._store
        ledger = store.state.leases.subscription(group, sent.topic).ledger(sent.queue_id)
        found = ledger.find(sent.offset)
        if self._is_unseen(group, sent):
            return "new"
        if found is None:
            return "over"
        if ledger.lines is not None and sent.offset in ledger.lines.early:
            return "early" if self._waits(group, sent, ledger.lines) else "over"
        if found.lease is None or found.lease.due_ms <= self._now_ms():
            return f"ready {found.attempt}"
        return found.lease.sequence

    def _is_unseen(self, group: str, sent: Sent) -> bool:
        state = self.rig.broker._store.state
        ledger, queue = (
            state.leases.subscription(group, sent.topic).ledger(sent.queue_id),
            state.queue(sent.topic, sent.queue_id),
        )
        assert queue is not None
        is_parked = ledger.find(sent.offset) is None and ledger.key(sent.offset) is not None
        return sent.offset >= (queue.min_offset if is_parked else max(ledger.next, queue.min_offset))

    def _waits(self, group: str, sent: Sent, lines: Lines) -> bool:
        """For one that the group wants. Others may be in line again after a loss, until the next receive."""
        wanted = {place.offset for place in self.lines[group, sent.topic, sent.message_group or sent.lite_topic]}
        return any(at in wanted and at < sent.offset and at not in lines.early for at in lines)

    def _is(self, place: Place, seen: str | int, maker: HandleMaker) -> bool:
        lease = place.lease
        if isinstance(seen, int):
            return lease is not None and maker.parse(lease.handle).sequence == seen
        if lease is not None:
            return lease.due_ms <= self._now_ms() and seen == f"ready {place.attempts}"
        if place.is_new:
            return seen in ("new", "ready 0")  # the latter where what came before it in the log is lost
        if place.over == "early":
            return seen == "early"
        return seen == ("over" if place.over else f"ready {place.attempts}")
