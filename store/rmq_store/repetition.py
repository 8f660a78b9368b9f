"""The state as journal entries: what each segment of the log begins with, so that those before it can be deleted.

Messages, timers and half messages are no part of it: what is needed of them is carried forward (retention.py).
"""

from collections.abc import Iterator

from rmq_store.journal import Change, Cursors, HalfOutcomes, QueueEnds, Started, StateEnd, TimersFired, TopicPut
from rmq_store.state import State


def changes(state: State, start_number: int, base: int) -> Iterator[list[Change]]:
    """For the segment at `base`. What belongs together comes together: nothing else happens in between."""
    yield [Started(start_number), TimersFired(state.timers.fired_ms)]
    for name in list(state.topics):
        if (topic := state.topics.get(name)) is not None:
            ends = [queue.max_offset for queue in topic.queues]
            yield [TopicPut(name, topic.type, len(ends)), QueueEnds(name, ends)]
    for name in list(state.groups):
        if (group := state.groups.get(name)) is not None:
            yield [group]
    for key in list(state.leases.subscriptions):
        subscription = state.leases.subscriptions.get(key)
        if subscription is not None and subscription.ledgers:
            yield [Cursors(*key, [(q, ledger.next) for q, ledger in subscription.ledgers.items()])]
    for chunk in state.halves.outcomes.names():
        if (known := state.halves.outcomes.chunk(chunk)) is not None:
            yield [HalfOutcomes(chunk, known)]
    yield [StateEnd(base)]
