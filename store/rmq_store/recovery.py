"""Opens what a stop or a crash left: checkpoint, then replay of the log from its position to the last whole record.

Crash while recovering: nothing but zeroing behind the log's end is written before `set_end`, so it starts over alike.
"""

import logging

import msgspec

from rmq_store import journal, snapshot, timers
from rmq_store.checkpoint import Checkpoint, Meta
from rmq_store.commitlog import CommitLog, Gap
from rmq_store.errors import StoreError
from rmq_store.journal import TopicPut, UnknownJournal
from rmq_store.record import SYS_FLAG_PREPARED, Damaged, Record, tags_code
from rmq_store.state import Origin, State

log_ = logging.getLogger("rmq.store")
UNKNOWN_TYPE = -1  # rmq.message.MessageType.MIXED: a topic that only the log knows of


class Report(msgspec.Struct):
    """What was found. `damaged`: what was passed over."""

    replayed_from: int
    end: int
    records: int
    damaged: list[Gap]


def recover(log: CommitLog, state: State, checkpoint: Checkpoint | None) -> Report:
    """Fills `state` and sets the log's end. Raises StoreError for a journal of a newer version."""
    start = _load(log, state, checkpoint)
    report = Report(start, start, 0, [])
    for found in log.scan(start):
        if isinstance(found, Gap):
            report.damaged.append(found)
            log_.error("bytes %d to %d of the commit log are damaged and passed over", *found)
            continue
        replay(state, found)
        report.records += 1
        report.end = found.position + found.size
        log.last = (found.position, found.size)
    log.set_end(report.end)
    return report


def _load(log: CommitLog, state: State, checkpoint: Checkpoint | None) -> int:
    loaded = checkpoint.load() if checkpoint else None
    if checkpoint is None or loaded is None:
        return log.begin
    meta, pairs = loaded
    if not _reaches(log, meta):
        log_.warning("the checkpoint does not fit the log: it is discarded, the whole log is read")
        checkpoint.discard()
        return log.begin
    snapshot.restore(state, pairs)
    state.start_number = meta.start_number
    state.sequence_floor = meta.sequence_floor
    state.state_complete.update(meta.state_complete)
    log.last = (meta.last_position, meta.last_size)
    if meta.begin != log.begin:
        _drop_gone(log, state)
    return meta.position


def _drop_gone(log: CommitLog, state: State) -> None:
    """Segments were deleted after the checkpoint: queues begin where the log does."""
    for topic in state.topics.values():
        for queue in topic.queues:
            state.stale_files += queue.drop_before(queue.first_offset_at(log.begin))
            state.dirty_queues[queue] = None


def _reaches(log: CommitLog, meta: Meta) -> bool:
    """The last record that the checkpoint covers is there and whole."""
    if meta.last_size == 0:
        return meta.position == log.begin
    try:
        return log.read(meta.last_position, meta.last_size).size > 0
    except Damaged:
        return False


def replay(state: State, found: Record) -> None:
    """One record's effect on the state: the same as when it was appended."""
    if found.topic == journal.TOPIC_TEXT:
        try:
            changes = journal.decode(found.body)
        except UnknownJournal as error:
            raise StoreError(
                f"this store was written by a newer rmq ({error}, position {found.position}): "
                "use that version, or another --data"
            ) from None
        for change in changes:
            state.apply(change)
        return
    if found.sys_flag & SYS_FLAG_PREPARED:  # prepared and rollback types have no queue entry
        return
    queue = state.queue(found.topic, found.queue_id)
    if queue is None:
        known = state.topics.get(found.topic)
        state.apply(TopicPut(found.topic, known.type if known else UNKNOWN_TYPE, found.queue_id + 1))
        queue = state.topics[found.topic].queues[found.queue_id]
    properties = found.decode_properties()
    tags = properties.get("TAGS", "")
    state.index(queue, found.queue_offset, found.position, found.size, tags_code(tags) if tags else 0)
    origin = Origin.parse(properties.get(Origin.PROPERTY, ""))
    if origin is not None:
        state.settle_origin(origin, found.topic, found.queue_id, found.queue_offset, timers.due_of(properties))
    elif found.topic == timers.TOPIC:
        state.timers.put(found.queue_offset, timers.due_of(properties), found.queue_offset)
