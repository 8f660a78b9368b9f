"""The model learns delayed messages and their recall; all else is machine.py's.

Held besides: a delayed message is nowhere before its time, at its time it is there like any other, once, in order of
due time and then of sending; recalled means never delivered; a handle answers as the time and what befell it say.
"""

import dataclasses
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from rmq import message as m
from rmq.errors import ClientError, Code
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
        """One that waits, was recalled, or came."""
        one = self.delayed[-1 - pick % len(self.delayed)]
        if one.due_ms <= self.rig.clock.wall_ms():
            with pytest.raises(ClientError) as caught:
                self.rig.broker.recall(one.topic, one.handle)
            assert caught.value.code is Code.PRECONDITION_FAILED
            return
        assert self.rig.wait(self.rig.broker.recall(one.topic, one.handle)) == f"id-{one.name}"
        one.recalled = True
        self._count("recalled")

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
