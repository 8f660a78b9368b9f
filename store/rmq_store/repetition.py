"""The state as journal entries: what each segment of the log begins with, so that those before it can be deleted.

Messages, timers and half messages are no part of it: what is needed of them is carried forward (retention.py).
"""

from collections.abc import Iterator

from rmq_store.journal import (
    Change,
    Cursors,
    HalfOutcomes,
    LitePlaces,
    LitesPut,
    LiteSubscribed,
    QueueEnds,
    Started,
    StateEnd,
    TimersFired,
    TopicPut,
)
from rmq_store.lites import Lites
from rmq_store.state import State

_PLACES = 500  # in one entry


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
            cursors = Cursors(*key, [(q, ledger.next) for q, ledger in subscription.ledgers.items()])
            yield [LitePlaces(*key, []), cursors] if subscription.lite else [cursors]
    for chunk in state.halves.outcomes.names():
        if (known := state.halves.outcomes.chunk(chunk)) is not None:
            yield [HalfOutcomes(chunk, known)]
    yield from _lites(state.lites)
    yield [StateEnd(base)]


def _lites(lites: Lites) -> Iterator[list[Change]]:
    for key in list(lites.keys()):
        if (lite := lites.get(key)) is not None:
            yield [LitesPut(lite.topic, [(lite.name, lite.queue_id, lite.end, lite.touched_ms)])]
    for name, topic in [(group.group, group.topic) for groups in lites.groups.values() for group in groups.values()]:
        known = lites.group(name, topic)
        keys = list(known.places) if known is not None else []
        for start in range(0, len(keys), _PLACES):
            if (group := lites.group(name, topic)) is not None:
                some = [(key, place.next) for key in keys[start : start + _PLACES] if (place := group.places.get(key))]
                yield [LitePlaces(name, topic, some)]
        for client in list(known.clients) if known is not None else ():
            group = lites.group(name, topic)
            if group is not None and client in group.clients:
                yield [LiteSubscribed(name, topic, client, list(group.clients[client]), [])]
