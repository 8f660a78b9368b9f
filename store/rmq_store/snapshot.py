"""State <-> the checkpoint's key-value pairs: only what changed since the last one, or everything.

Runs on the loop and hands over finished bytes; the worker that stores them never touches a live object.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from rmq_store import litepairs
from rmq_store.checkpoint import HALF, OUTCOMES, TIMER, Changed, Kept, number_of, numbered_key, timer_pair
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.halves import Half, Halves
from rmq_store.journal import GroupPut, TopicPut
from rmq_store.leases import Leases
from rmq_store.ledger import Lease, Ledger, Open
from rmq_store.lines import CHUNK_BITS
from rmq_store.state import State, Topic
from rmq_store.timers import GONE, Changes

Pairs = list[Changed]
_encode = msgspec.msgpack.Encoder().encode


def changed(state: State, *, everything: bool) -> Pairs:
    """Pairs to store so that the checkpoint equals `state`, timers aside; marks the state clean."""
    leases = state.leases
    topics = set(state.topics) if everything else state.dirty_topics | {q.topic for q in state.dirty_queues}
    groups = set(state.groups) if everything else state.dirty_groups
    queues = [queue for topic in state.topics.values() for queue in topic.queues] if everything else state.dirty_queues
    pairs: Pairs = [(b"t" + name.encode(), _topic_value(state.topics.get(name))) for name in topics]
    pairs += [(b"g" + name.encode(), _group_value(state.groups.get(name))) for name in groups]
    for queue in queues:
        pairs += _sums_pairs(queue, everything=everything)
    for ledger in list(leases.ledgers()) if everything else list(leases.dirty):
        if everything:
            ledger.dirty.update(offset >> CHUNK_BITS for offset in ledger.open)
            ledger.dirty.update(ledger.lines.chunks() if ledger.lines is not None else ())
        pairs += _ledger_pairs(ledger)
    pairs += litepairs.changed(state.lites, everything=everything)
    leases.dirty.clear()
    _forget_names(state)
    return pairs


def timer_pairs(changes: Changes, fired_ms: int) -> Iterator[Changed]:
    """Pairs to store for timers that came and went, in that order. For the worker: `changes` are nobody else's by then.

    Timers are never part of `everything`: there may be a million.
    """
    yield TIMER, _encode([fired_ms])
    for at in range(0, len(changes), 3):
        due_ms, number, first = changes[at : at + 3]
        yield timer_pair(due_ms, number, None if first == GONE else first)


def half_pairs(halves: Halves) -> Pairs:
    """Pairs to store for half messages that came, went or were checked, and for how they ended; marks them clean.

    Like timers they are never part of `everything`.
    """
    pairs: Pairs = [
        (numbered_key(HALF, first), None if row is None else _encode(row)) for first, row in halves.take_changes()
    ]
    for chunk, told in halves.outcomes.take_changes():
        pairs.append((numbered_key(OUTCOMES, chunk), None if told is None else _encode(told)))
    return pairs


def half_pairs_again(halves: Halves, pairs: Pairs) -> None:
    """The checkpoint that was to have them failed."""
    halves.change_again(number_of(key) for key, _ in pairs if key.startswith(HALF))
    halves.outcomes.dirty.update(number_of(key) for key, _ in pairs if key.startswith(OUTCOMES))


def restore(state: State, kept: Kept) -> None:
    """The reverse of `changed(everything=True)`, into an empty state."""
    shared: dict[tuple[object, ...], tuple[Lease, list[Open]]] = {}
    later: list[tuple[Ledger, list[Any]]] = []
    sums: list[tuple[list[str], list[Any]]] = []
    ended: list[tuple[int, int, bytes]] = []
    # LMDB's order: c (cursors), g, l and n (lite topics), o (open), p (lines), q (checksums of queue files), t
    # (topics), u and v (places in lite topics), w (timers), x (half messages), y (how such ended)
    for key, value in kept.decoded():
        if key == TIMER:
            state.timers.fired_ms = value[0]
            continue
        if key.startswith(HALF):
            _restore_half(state.halves, number_of(key), value)
            continue
        if key.startswith(OUTCOMES):
            stamp, chunk = value
            ended.append((stamp, number_of(key), chunk))
            continue
        if key.startswith(litepairs.KINDS):
            litepairs.restore(state.lites, key, value)
            continue
        kind, names = key[:1], key[1:].decode().split("\x00")
        if kind == b"t":
            _restore_topic(state, names[0], value)
        elif kind == b"g":
            state.apply(msgspec.convert(value, GroupPut))
        elif kind == b"q":
            sums.append((names, value))
        else:
            ledger = state.leases.subscription(names[0], names[1]).ledger(int(names[2]))
            if kind == b"c":
                ledger.next = value[0]
                later.append((ledger, value[1]))
            elif kind == b"p":
                state.leases.restore_lines(ledger, int(names[3]), *value)
            else:
                for row in value:
                    _restore_open(state.leases, ledger, row, shared)
    for lease, held in shared.values():
        lease.held = tuple(held)
    for ledger, moved in later:
        _restore_moved(state.leases, ledger, moved)
    state.leases.count_parked()
    for group in (group for groups in state.lites.groups.values() for group in groups.values()):
        state.leases.subscription(group.group, group.topic).lite = True
    for (topic, queue_id, number), (first, end, data) in sums:
        state.topics[topic].queues[int(queue_id)].restore_sums(int(number), (first, end, data))
    state.timers.restore(*kept.timers())
    state.halves.outcomes.restore(ended)
    forget_changes(state)


def forget_changes(state: State) -> None:
    """What was just loaded is no change; where nothing is ever saved, nothing is."""
    for ledger in state.leases.dirty:
        ledger.dirty.clear()
    state.leases.dirty.clear()
    _forget_names(state)
    state.timers.take_changes()
    half_pairs(state.halves)
    state.lites.forget_changes()
    state.stale_folders.clear()
    state.stale_files.clear()


def _forget_names(state: State) -> None:
    state.dirty_topics.clear()
    state.dirty_groups.clear()
    state.dirty_queues.clear()


def _topic_value(topic: Topic | None) -> bytes | None:
    if topic is None:
        return None
    return _encode([topic.type, [[q.first_offset, q.max_offset] for q in topic.queues]])


def _group_value(group: GroupPut | None) -> bytes | None:
    return None if group is None else _encode(group)


def _sums_pairs(queue: ConsumeQueue, *, everything: bool) -> Pairs:
    name = b"q%b\x00%d\x00" % (queue.topic.encode(), queue.queue_id)
    changed = queue.take_sums(everything=everything)
    return [(b"%b%d" % (name, number), None if value is None else _encode(value)) for number, value in changed]


def _ledger_pairs(ledger: Ledger) -> Pairs:
    name = b"%b\x00%b\x00%d" % (ledger.subscription.group.encode(), ledger.subscription.topic.encode(), ledger.queue_id)
    moved = [[o[0].subscription.topic, o[0].queue_id, o[1], offset] for offset, o in ledger.origins.items()]
    pairs: Pairs = [(b"c" + name, _encode([ledger.next, moved]))]
    for chunk in ledger.dirty:
        first = chunk << CHUNK_BITS
        rows = [
            _open_row(found)
            for offset in range(first, first + (1 << CHUNK_BITS))
            if (found := ledger.open.get(offset)) is not None
        ]
        pairs.append((b"o%b\x00%d" % (name, chunk), _encode(rows) if rows else None))
        if ledger.lines is not None:
            packed = ledger.lines.packed(chunk)
            pairs.append((b"p%b\x00%d" % (name, chunk), _encode(packed) if packed else None))
    ledger.dirty.clear()
    return pairs


def _open_row(found: Open) -> list[object]:
    lease = found.lease
    if lease is None:
        return [found.offset, found.attempt, 0, 0, 0, "", 0]
    return [found.offset, found.attempt, lease.sequence, lease.taken_ms, lease.due_ms, lease.client, lease.asked]


def _restore_topic(state: State, name: str, value: list[Any]) -> None:
    type_, ranges = value
    state.apply(TopicPut(name, type_, 0))
    for queue_id, (min_offset, max_offset) in enumerate(ranges):
        state.topics[name].queues.append(ConsumeQueue(state.files, name, queue_id, min_offset, max_offset))


def _restore_half(halves: Halves, first: int, row: list[Any]) -> None:
    number, due_ms, checks, topic = row
    halves.put(first, Half(topic, number, due_ms, checks))


def _restore_open(
    leases: Leases, ledger: Ledger, row: list[Any], shared: dict[tuple[object, ...], tuple[Lease, list[Open]]]
) -> None:
    offset, attempt, sequence, taken_ms, due_ms, client, *asked = row  # `asked` came later
    if not sequence:
        leases.restore(ledger, offset, attempt, None)
        return
    key = (ledger.subscription, sequence, due_ms, *asked)
    if key not in shared:
        lease = leases.new_lease(ledger.subscription.group, sequence, taken_ms, due_ms, client, *asked)
        shared[key] = lease, []
    lease, held = shared[key]
    held.append(leases.restore(ledger, offset, attempt, lease))


def _restore_moved(leases: Leases, ledger: Ledger, moved: list[Any]) -> None:
    for topic, queue_id, offset, retry_offset in moved:
        origin = leases.subscription(ledger.subscription.group, topic).ledger(queue_id)
        ledger.origins[retry_offset] = (origin, offset)
        origin.moved[offset] = ledger.open[retry_offset]
