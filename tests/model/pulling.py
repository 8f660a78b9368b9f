"""The model learns pulls and commits, by a group that does nothing else; all else is delayed.py's and machine.py's.

Held besides: a pull brings what was sent to its queue from the offset on, whatever other groups hold, and moves
nothing; a group is where it last committed, after whatever befell the server; a commit that a crash cut off is made or
is not.
"""

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from rmq.errors import ClientError, Code
from rmq.filter import ALL
from rmq.port import PullRequest
from rmq_store.consumequeue import ConsumeQueue
from tests.model.delayed import DelayMachine
from tests.model.model import TOPICS
from tests.rmq.rig import bodies

READER = "reader"


class PullMachine(DelayMachine):
    """`committed`: where the reader is, by topic and queue."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: dict[tuple[str, int], int] = {}
        self.perhaps_committed: list[tuple[tuple[str, int], int]] = []

    def _queues(self) -> list[ConsumeQueue]:
        topics = [self.rig.broker.topics.find(name) for name in TOPICS]
        return [queue for topic in topics if topic for queue in topic.queues]

    def _place(self, pick: int) -> tuple[ConsumeQueue, int]:
        """A queue, and an offset of it."""
        queues = self._queues()
        queue = queues[pick % len(queues)]
        return queue, queue.min_offset + pick // 7 % (queue.visible - queue.min_offset + 1)

    @precondition(lambda self: self.sent)
    @rule(pick=st.integers(0, 999))
    def pull(self, pick: int) -> None:
        """Without waiting, from anywhere."""
        queue, offset = self._place(pick)
        wanted = PullRequest(READER, queue.topic, queue.queue_id, offset, ALL, 32, 0)
        pulled = self.rig.wait(self.rig.broker.pull(wanted))
        there = sorted(
            (sent.offset, name)
            for name, sent in self.sent.items()
            if (sent.topic, sent.queue_id) == (queue.topic, queue.queue_id) and sent.offset >= offset
        )
        assert bodies(pulled.messages) == [name for _, name in there[:32]]
        assert [message.queue_offset for message in pulled.messages] == [at for at, _ in there[:32]]
        self._count("pulled", len(pulled.messages))

    @precondition(lambda self: self.sent)
    @rule(pick=st.integers(0, 999))
    def commit(self, pick: int) -> None:
        """Forwards or back."""
        queue, offset = self._place(pick)
        self.rig.wait(self.rig.broker.update_offset(READER, queue.topic, queue.queue_id, offset))
        self.committed[queue.topic, queue.queue_id] = offset
        self._count("places committed")

    def _begin_receive(self, pick: int) -> None:
        """A commit that a crash cuts off, in a third of the cases."""
        if pick % 3 or not self.sent:
            super()._begin_receive(pick)
            return
        queue, offset = self._place(pick)
        self.rig.broker.update_offset(READER, queue.topic, queue.queue_id, offset)
        self.perhaps_committed.append(((queue.topic, queue.queue_id), offset))

    def _resolve(self) -> None:
        """Of commits that were cut off, the first ones are made."""
        super()._resolve()
        for place, offset in self.perhaps_committed:
            if self._told(*place) == max(offset, self._begin(*place)):
                self.committed[place] = offset
                self._count("commits found")
        self.perhaps_committed.clear()

    def _told(self, topic: str, queue_id: int) -> int | None:
        try:
            return self.rig.broker.committed_offset(READER, topic, queue_id)
        except ClientError as error:
            if error.code is not Code.OFFSET_NOT_FOUND:
                raise
            return None

    def _begin(self, topic: str, queue_id: int) -> int:
        return self.rig.broker.query_offset(topic, queue_id)

    @invariant()
    def the_reader_is_where_it_committed(self) -> None:
        """Or at the begin of what is kept, where that is further on."""
        for queue in self._queues():
            place = queue.topic, queue.queue_id
            offset = self.committed.get(place)
            assert self._told(*place) == (None if offset is None else max(offset, self._begin(*place)))
