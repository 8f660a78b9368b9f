"""Makes a copy of a stopped store that Apache RocketMQ 4.9 or 5.x opens as its own: docs/decisions/0002-disk-format.md.

    out/commitlog/<20 digits>            our segments: the same bytes up to the log's end, then timers, zeros
    out/config/topics.json               topics and their queues; without it Apache has no route to a message
    out/config/subscriptionGroup.json    groups: deliveries, retry policy
    out/config/consumerOffset.json       per topic@group and queue: the oldest offset that is not settled
    out/config/timercheck                from where in the timer topic on Apache 5 reads delayed messages

Apache 5 delivers each record of the timer topic that it reads, also one that was delivered or recalled: so delayed
messages that wait stand behind all others, in records of their own behind the log's end where need be, and it begins
with them. Apache 4.9 delivers none of them.

Left out on purpose: consume queues and checkpoint, so that Apache builds queues and key index from the whole log, and
`abort`, whose absence means a clean stop. Promises to change nothing in the store it reads. Needs 20 bytes of memory a
message. What only a lease knows is lost: whoever had a message, or settled one behind an open one, gets it again; and
of a transaction that ended behind one that has not, Apache asks the producer again.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmq_store import halves, recovery, timers
from rmq_store.commitlog import CommitLog
from rmq_store.consumequeue import ConsumeQueue, QueueFiles
from rmq_store.disk import DirectoryLock, File, RealDisk
from rmq_store.errors import StoreError
from rmq_store.journal import GroupPut
from rmq_store.ledger import Ledger
from rmq_store.recovery import Report
from rmq_store.retention import again
from rmq_store.segment import FOLDER
from rmq_store.state import State, Topic

# TopicPut.kind, the number of rmq.message.MessageType, in Apache's words
TYPE_NAMES = {-1: "MIXED", 1: "NORMAL", 2: "FIFO", 3: "DELAY", 4: "TRANSACTION", 5: "LITE", 6: "PRIORITY"}
PERM_READ_WRITE = 6
_VERSION = {"counter": 1, "stateVersion": 0, "timestamp": 0}
_WINDOW_BYTES = 1 << 20
_TIMERCHECK = struct.Struct(">qqqq")  # read up to (0: not known), end of the timer log, the timer topic's place, twice
_TIMERCHECK_BYTES = 4096
_HALVES_GROUP = "CID_RMQ_SYS_TRANS"  # Apache's own


def export(data: Path, out: Path) -> Report:
    """Reads the store in `data`, writes `out`, and says what was read. Raises StoreError; `out` is useless then.

    `out` has to be empty or absent; the store has to be stopped (a kill -9 counts) and its log undamaged: Apache would
    cut off all that lies behind the damage.
    """
    if not (data / FOLDER).is_dir():
        raise StoreError(f"{data} is no store: it has no {FOLDER}/")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} is not empty: name a directory that is not there yet")
    lock = DirectoryLock(data)
    try:
        target = RealDisk(out)
        _copy_log(data, target)
    finally:
        lock.release()
    return _describe(target)


def _copy_log(data: Path, target: RealDisk) -> None:
    source = RealDisk(data)
    for name in source.list(FOLDER):
        path = f"{FOLDER}/{name}"
        size = source.size(path)
        if size:  # 0: a crash fell between its making and its length
            _copy_file(source.open(path, size), target.open(path, size))


def _copy_file(source: File, target: File) -> None:
    """Only what is not zero: the copy is as sparse as can be."""
    for start, end in source.data(0):
        for at in range(start, end, _WINDOW_BYTES):
            window = source.read(at, min(_WINDOW_BYTES, end - at))
            if window.count(0) != len(window):
                target.write(at, window)
    target.sync()
    source.close()
    target.close()


def _describe(target: RealDisk) -> Report:
    """Replays the copied log: all that must survive is in there."""
    files = QueueFiles(target, open_max=1)  # none is opened: entries stay in memory
    state = State(files)
    log = CommitLog(target, segment_bytes=_WINDOW_BYTES, reserve_bytes=_WINDOW_BYTES)
    try:
        report = recovery.recover(log, state, None)
        if report.damaged:
            raise StoreError(f"the log has damaged bytes {list(map(tuple, report.damaged))}: Apache would stop there")
        timers_from = _set_timers_apart(log, state)
        report.end = log.end
        for segment in log.segments:
            segment.sync()
    finally:
        log.close()
    _write_config(target, state)
    if timers_from is not None:
        places = (0, 0, timers_from, timers_from)
        _write_file(target, "timercheck", _TIMERCHECK.pack(*places).ljust(_TIMERCHECK_BYTES, b"\0"))
    return report


def _set_timers_apart(log: CommitLog, state: State) -> int | None:
    """The queue offset from which on the timer topic holds those that wait, and no other; None: there is none."""
    topic = state.topics.get(timers.TOPIC)
    if topic is None:
        return None
    queue = topic.queues[0]
    waiting = sorted(state.timers.current(first) for _, first in state.timers.earliest(len(state.timers)))
    if not waiting:
        return 0 if queue.first_offset == queue.max_offset else queue.max_offset  # as _next
    if queue.max_offset - waiting[0] == len(waiting):
        return waiting[0]
    for offset, number in enumerate(waiting, queue.max_offset):
        entry = queue.read(number, 1)[0]
        kept = log.read(entry.position, entry.size)
        log.append(again(kept, number, {})[0], offset, kept.store_ms)
        log.write()
    return queue.max_offset


def _write_config(target: RealDisk, state: State) -> None:
    topics = {name: _topic(topic) for name, topic in state.topics.items()}
    groups = {name: _group(group) for name, group in state.groups.items()}
    offsets = {key: nexts for key, nexts in _offsets(state) if nexts}
    _write_json(target, "topics.json", {"topicConfigTable": topics})
    _write_json(target, "subscriptionGroup.json", {"subscriptionGroupTable": groups})
    _write_json(target, "consumerOffset.json", {"offsetTable": offsets})


def _write_json(target: RealDisk, name: str, content: dict[str, Any]) -> None:
    _write_file(target, name, json.dumps({"dataVersion": _VERSION, **content}, ensure_ascii=False, indent=1).encode())


def _write_file(target: RealDisk, name: str, data: bytes) -> None:
    file = target.open(f"config/{name}", len(data))
    file.write(0, data)
    file.sync()
    file.close()


def _topic(topic: Topic) -> dict[str, Any]:
    kind = TYPE_NAMES.get(topic.type)
    return {
        "topicName": topic.name,
        "readQueueNums": len(topic.queues),
        "writeQueueNums": len(topic.queues),
        "perm": PERM_READ_WRITE,  # dead letters too: Apache makes their topics write-only, and nobody can read them
        "topicFilterType": "SINGLE_TAG",
        "topicSysFlag": 0,
        "order": False,
        "attributes": {"message.type": kind} if kind else {},
    }


def _group(group: GroupPut) -> dict[str, Any]:
    policy: dict[str, Any] = {"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": group.steps_ms}}
    if not group.steps_ms:
        backoff = {"initial": group.initial_ms, "max": group.max_ms, "multiplier": int(group.multiplier)}
        policy = {"type": "EXPONENTIAL", "exponentialRetryPolicy": backoff}
    return {
        "groupName": group.name,
        "consumeMessageOrderly": group.orderly,
        "retryMaxTimes": group.attempts_max - 1,
        "groupRetryPolicy": policy,
    }


def _offsets(state: State) -> Iterator[tuple[str, dict[str, int]]]:
    for (group, topic), subscription in state.leases.subscriptions.items():
        ledgers = sorted(subscription.ledgers.items())
        yield f"{topic}@{group}", {str(q): _next(state, topic, ledger) for q, ledger in ledgers}
    if halves.TOPIC in state.topics:
        yield f"{halves.TOPIC}@{_HALVES_GROUP}", {"0": _next_half(state, state.topics[halves.TOPIC].queues[0])}


def _next_half(state: State, queue: ConsumeQueue) -> int:
    """Where Apache's check of half messages begins."""
    live = [half.number for half in map(state.halves.get, state.halves.firsts()) if half is not None]
    return min(live, default=0 if queue.first_offset == queue.max_offset else queue.max_offset)


def _next(state: State, topic: str, ledger: Ledger) -> int:
    """0 for a queue without a record left: Apache counts such a queue from 0 again, and the group with it."""
    queue = state.queue(topic, ledger.queue_id)
    return 0 if queue is None or queue.first_offset == queue.max_offset else ledger.committed()
