"""Opens what a stop or a crash left: checkpoint, then replay of the log from its position to the last whole record.

What lies behind the last whole record was being written when a crash came, or is damaged. A record all of whose bytes
were written is damaged: it stays where it is, passed over. Anything else is copied to lost+found and zeroed.

Crash while recovering: nothing but zeroing behind the log's end is written before `set_end`, so it starts over alike.
"""

import contextlib
import logging

import msgspec

from rmq_store import halves, journal, lites, snapshot, timers
from rmq_store.checkpoint import Checkpoint, Meta
from rmq_store.commitlog import CommitLog, Gap
from rmq_store.consumequeue import ENTRY, ENTRY_BYTES, FILLER, ConsumeQueue
from rmq_store.disk import Disk
from rmq_store.doubt import Doubt
from rmq_store.errors import StoreError
from rmq_store.journal import TopicDrop, TopicPut, UnknownJournal
from rmq_store.record import BLANK_BYTES, SYS_FLAG_PREPARED, Damaged, Record, peek_size, tags_code
from rmq_store.state import Origin, State

log_ = logging.getLogger("rmq.store")
LOST_FOLDER = "lost+found"
GIVEN_UP_TOPIC = "-"  # of the rollback record that a repair puts in the place of damaged ones
UNKNOWN_TYPE = -1  # rmq.message.MessageType.MIXED: a topic that only the log knows of


class Report(msgspec.Struct):
    """What was found. `damaged`: what was passed over; `cut_off`: bytes behind the end that were no whole record.

    `missing`: bytes behind the end that were there when the checkpoint was written.
    """

    replayed_from: int
    end: int
    records: int
    damaged: list[Gap]
    cut_off: int = 0
    missing: int = 0


def recover(log: CommitLog, state: State, checkpoint: Checkpoint | None) -> Report:
    """Fills `state` and sets the log's end. Raises StoreError for a journal of a newer version."""
    start, known_end = _load(log, state, checkpoint)
    report = Report(start, start, 0, [])
    doubt = Doubt(state, log)
    for found in log.scan(start):
        if isinstance(found, Gap):
            report.damaged.append(found)
            doubt.begin(found.end)
            continue
        replay(state, found, doubt)
        report.records += 1
        report.end = found.position + found.size
        log.last = (found.position, found.size)
    doubt.end()
    tail = _end(log, report)
    if tail and checkpoint is not None:
        _keep_aside(state.files.disk, report.end, tail)
    report.missing = max(known_end - report.end, 0)
    if report.missing:
        log_.error("the commit log is damaged: it ends at %d, and went on to %d once", report.end, known_end)
    for gap in report.damaged:
        log_.error("bytes %d to %d of the commit log are damaged and passed over", *gap)
    log.set_end(report.end)
    if report.damaged or doubt.is_raised:
        _skip_what_groups_passed(state)
    return report


def _end(log: CommitLog, report: Report) -> bytes:
    """Decides on what lies behind the last whole record; returns what is cut off."""
    damaged = log.damaged_behind(report.end)
    if damaged is not None:
        report.damaged.append(damaged)
        report.end = damaged.end
    tail = log.written_behind(report.end)
    if peek_size(tail[:BLANK_BYTES]) == 0:  # the segment's closing mark: the crash came before the next record
        return b""
    report.cut_off = len(tail)
    return tail


def _keep_aside(disk: Disk, end: int, tail: bytes) -> None:
    try:
        path = set_aside(disk, end, tail)
    except OSError as error:
        path = f"nowhere ({error})"
    log_.warning(
        "cut off behind the log's end at %d: %d bytes of an unfinished record, kept in %s", end, len(tail), path
    )


def set_aside(disk: Disk, position: int, data: bytes) -> str:
    """Keeps bytes of the log that are given up; returns the file's path. Raises OSError."""
    path = f"{LOST_FOLDER}/{position:020d}-{len(data)}"
    with contextlib.closing(disk.open(path, len(data))) as file:
        file.write(0, data)
        file.sync()
    return path


def _skip_what_groups_passed(state: State) -> None:
    """Where messages are lost, and what groups had of them is not: to give their offsets again would hide the new ones.

    A topic that nothing but its use tells of is there again.
    """
    places = [(ledger.subscription.topic, ledger.queue_id, ledger.next) for ledger in state.leases.ledgers()]
    for topic, queue_id, next_offset in (*places, *state.lites.ends()):
        queue = _queue(state, topic, queue_id)
        if queue.max_offset < next_offset:
            queue.skip_to(next_offset)
            state.dirty_queues[queue] = None


def _queue(state: State, topic: str, queue_id: int) -> ConsumeQueue:
    """Made where the record that made it is lost."""
    queue = state.queue(topic, queue_id)
    if queue is None:
        known = state.topics.get(topic)
        state.apply(TopicPut(topic, known.type if known else UNKNOWN_TYPE, queue_id + 1))
        queue = state.topics[topic].queues[queue_id]
    return queue


def _load(log: CommitLog, state: State, checkpoint: Checkpoint | None) -> tuple[int, int]:
    """From where to replay, and up to where the log was whole when the checkpoint was written."""
    loaded = checkpoint.load() if checkpoint else None
    if checkpoint is None or loaded is None:
        return log.begin, 0
    meta = loaded.meta
    if not _reaches(log, meta):
        log_.warning("the checkpoint does not fit the log: it is discarded, the whole log is read")
        checkpoint.discard()
        return log.begin, meta.last_position + meta.last_size
    snapshot.restore(state, loaded)
    state.start_number = meta.start_number
    state.sequence_floor = meta.sequence_floor
    state.state_complete.update(meta.state_complete)
    log.last = (meta.last_position, meta.last_size)
    if meta.begin != log.begin:
        _drop_gone(log, state)
    return meta.position, 0


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


def replay(state: State, found: Record, doubt: Doubt | None = None) -> None:
    """One record's effect on the state: the same as when it was appended, or as `doubt` has it."""
    if found.topic == journal.TOPIC_TEXT:
        try:
            changes = journal.decode(found.body)
        except UnknownJournal as error:
            raise StoreError(
                f"this store was written by a newer rmq ({error}, position {found.position}): "
                "use that version, or another --data"
            ) from None
        for change in changes:
            if doubt is None or doubt.before(change):
                state.apply(change)
        return
    if found.sys_flag & SYS_FLAG_PREPARED:  # prepared and rollback types have no queue entry
        if found.topic == GIVEN_UP_TOPIC and doubt is not None:
            doubt.begin(found.position + found.size)
        return
    queue = _queue(state, found.topic, found.queue_id)
    properties = found.decode_properties()
    state.index(queue, found.queue_offset, found.position, found.size, tags_code(properties.get("TAGS", "")))
    if lite := lites.name_in(found.topic, properties):
        state.lites.put(found.topic, lite, found.queue_id, found.queue_offset, found.store_ms)
    origin = Origin.parse(properties.get(Origin.PROPERTY, ""))
    if found.topic == halves.TOPIC:
        half = halves.told_by(found.queue_offset, properties)
        if half is not None:
            if doubt is not None and doubt.is_raised:
                _queue(state, half.topic, 0)  # the record that made it may be lost
            state.halves.put(origin.offset if origin is not None else found.queue_offset, half)
    elif origin is not None:
        if doubt is not None:
            doubt.before_origin(origin, properties)
        state.settle_origin(origin, found.topic, found.queue_id, found.queue_offset, timers.due_of(properties))
    elif found.topic == timers.TOPIC:
        state.timers.put(found.queue_offset, timers.due_of(properties), found.queue_offset)


def rebuild(log: CommitLog, queue: ConsumeQueue, start: int, end: int, after: int | None, before: int | None) -> bytes:
    """A queue's entries [start, end) as the log has them, fillers where it has none. Slow: it reads the log between.

    `after`, `before`: positions of the messages next to them, None: not known.
    """
    entries = bytearray(FILLER * (end - start))
    for found in log.scan(log.begin if after is None else max(after, log.begin)):
        if isinstance(found, Gap):
            continue
        if before is not None and found.position >= before:
            break
        if after is None and found.topic == journal.TOPIC_TEXT:
            if _drops(found, queue.topic):  # a topic of the same name, before
                entries = bytearray(FILLER * (end - start))
        elif (found.topic, found.queue_id) == (queue.topic, queue.queue_id) and not found.sys_flag & SYS_FLAG_PREPARED:
            if start <= found.queue_offset < end:
                code = tags_code(found.decode_properties().get("TAGS", ""))
                ENTRY.pack_into(entries, (found.queue_offset - start) * ENTRY_BYTES, found.position, found.size, code)
            if after is not None and found.queue_offset >= end - 1:
                break
    return bytes(entries)


def _drops(found: Record, topic: str) -> bool:
    return any(isinstance(change, TopicDrop) and change.name == topic for change in journal.decode(found.body))
