"""The model learns delayed messages and their recall; all else is machine.py's.

Held besides: a delayed message is nowhere before its time, at its time it is there like any other, once, in order of
due time and then of sending; recalled means never delivered; a handle answers as the time and what befell it say.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from rmq import message as m
from rmq.errors import ClientError, Code
from rmq.recallhandle import RecallHandle
from rmq_store import timers
from tests.model.machine import BrokerMachine
from tests.model.model import TAGS, TOPICS, Sent
from tests.rmq.rig import outgoing

DELAYS = st.sampled_from((1, 500, 500, 30_000, 200_000))


@dataclasses.dataclass
class Waiting:
    """A delayed message as its sender knows it."""

    name: str
    topic: str
    tag: str
    queue_id: int
    due_ms: int
    handle: str
    number: int
    recalled: bool = False


class DelayMachine(BrokerMachine):
    """`delayed`: all that ever were, those that wait too."""

    delays_max: ClassVar[int] = 200

    def __init__(self) -> None:
        super().__init__()
        self.delayed: list[Waiting] = []
        self.cut_off: dict[str, str] = {}  # delayed sends that may or may not be stored: message id and name
        self.perhaps_recalled: list[Waiting] = []

    def waiting(self) -> list[Waiting]:
        """In the order in which they will come."""
        left = [one for one in self.delayed if not one.recalled and one.name not in self.sent]
        return sorted(left, key=lambda one: (one.due_ms, one.number))

    @precondition(lambda self: len(self.delayed) < self.delays_max)
    @rule(topic=st.sampled_from(TOPICS), tag=st.sampled_from(TAGS), delays=st.lists(DELAYS, min_size=1, max_size=3))
    def send_delayed(self, topic: str, tag: str, delays: list[int]) -> None:
        """Each for a time of its own."""
        for delay_ms in delays:
            number = len(self.delayed)
            due_ms = self.rig.clock.wall_ms() + delay_ms
            sent = outgoing(f"d{number}", topic=topic, tag=tag, **{m.TIMER_DELIVER_MS: str(due_ms)})
            (result,) = self.rig.send(sent)
            assert result.recall_handle
            waiting = Waiting(f"d{number}", topic, tag, result.queue_id, due_ms, result.recall_handle, number)
            self.delayed.append(waiting)
        self._count("delayed", len(delays))

    @precondition(lambda self: self.delayed)
    @rule(pick=st.integers(0, 99))
    def recall(self, pick: int) -> None:
        """One that waits, if there is one, in half the cases; else any: it waits, was recalled, or came."""
        some = (pick % 2 and self.waiting()) or self.delayed
        one = some[-1 - pick // 2 % len(some)]
        if one.due_ms <= self.rig.clock.wall_ms():
            with pytest.raises(ClientError) as caught:
                self.rig.broker.recall(one.topic, one.handle)
            assert caught.value.code is Code.PRECONDITION_FAILED
            return
        assert self.rig.wait(self.rig.broker.recall(one.topic, one.handle)) == f"id-{one.name}"
        one.recalled = True
        self._count("recalled")

    # -- verbs that a crash cuts off ---------------------------------------------------------------------------------

    def _begin_send(self, pick: int) -> None:
        if pick % 3:
            super()._begin_send(pick)
            return
        name, topic, due_ms = self._next_name(), TOPICS[pick % 2], self.rig.clock.wall_ms() + 500 + pick
        self.cut_off[f"id-{name}"] = name
        self.rig.broker.send([outgoing(name, topic=topic, tag="a", **{m.TIMER_DELIVER_MS: str(due_ms)})])

    def _begin_ack(self, pick: int) -> None:
        """A recall, in a third of the cases."""
        if pick % 3 or not (waiting := self.waiting()):
            super()._begin_ack(pick)
            return
        one = waiting[pick % len(waiting)]
        self.rig.broker.recall(one.topic, one.handle)
        self.perhaps_recalled.append(one)

    def _resolve(self) -> None:
        super()._resolve()
        state = self.rig.broker._store.state
        for one in self.perhaps_recalled:
            handle = RecallHandle.parse(one.handle)
            one.recalled = not state.timers.waits(handle.number, handle.due_ms)
            self._count("recalls found", one.recalled)
        for due_ms, number in sorted(state.timers.earliest(len(state.timers)), key=lambda timer: timer[1]):
            kept = self.rig.broker._delay.read(state.timers.current(number))
            assert kept is not None
            properties = kept.decode_properties()
            if (name := self.cut_off.get(properties["UNIQ_KEY"])) is not None:
                self._found_delayed(name, properties, due_ms, number)
        self.perhaps_recalled.clear()
        self.cut_off.clear()

    def _found_delayed(self, name: str, properties: Mapping[str, str], due_ms: int, number: int) -> None:
        topic, queue_id = properties[timers.REAL_TOPIC], int(properties[timers.REAL_QUEUE])
        handle = RecallHandle(topic, self.rig.config.broker_name, due_ms, number, f"id-{name}").text()
        self.delayed.append(Waiting(name, topic, "a", queue_id, due_ms, handle, len(self.delayed)))
        self._count("delayed sends found")

    def _expire(self) -> None:
        """What came due has been stored, after all that was in its queue before."""
        super()._expire()
        due = [one for one in self.waiting() if one.due_ms <= self.rig.clock.wall_ms()]
        if not due:
            return
        self.rig.settle()
        state = self.rig.broker._store.state
        ends: dict[tuple[str, int], int] = {}
        for one in reversed(due):
            where = one.topic, one.queue_id
            queue = state.topics[one.topic].queues[one.queue_id]
            offset = ends[where] = ends.get(where, queue.max_offset) - 1
            self._stored(one.name, Sent(one.topic, one.tag, one.queue_id, offset))
        self._count("came due", len(due))
        assert len(state.timers) == len(self.waiting())
