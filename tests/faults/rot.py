"""A small store of every kind of file, damaged in one place, opened, and read to the end: what may be lost is what was
hit, and nothing that is served is wrong.

The files lie in memory where the machine has such a file system; a trial takes some milliseconds.
"""

import contextlib
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rmq_store import halves, lites, timers
from rmq_store.commitlog import Gap
from rmq_store.inspection import Inspection
from rmq_store.journal import Extended, HalfChecked, HalfEnded, LiteSubscribed, TimerEnded
from rmq_store.record import encode_properties, tags_code
from rmq_store.repair import survey
from rmq_store.segment import FOLDER
from rmq_store.state import State
from rmq_store.store import Store
from tests.store.support import GROUP, SEGMENT_BYTES, Rig, draft, records

SMALL_BYTES = 256 << 10  # of log
PARALLEL = Path("/dev/shm")  # noqa: S108  # only where to put a TemporaryDirectory
TAGS = ("red", "green", "")
DEVICES = "devices"  # the parent of lite topics


class Message(NamedTuple):
    """What was stored, and where."""

    position: int
    size: int
    body: bytes
    properties: bytes
    tags_code: int


Place = tuple[str, int, int]
"""Topic, queue id, queue offset."""


class Damage(NamedTuple):
    """Bytes that replace others from an offset of a file on; `length` if the file is cut."""

    path: str
    offset: int
    data: bytes
    length: int | None = None

    def hits(self, position: int, size: int) -> bool:
        """Whether a record of the log is touched."""
        if not self.path.startswith(FOLDER):
            return False
        start = int(self.path.rpartition("/")[2])
        end = start + (SEGMENT_BYTES if self.length is not None else self.offset + len(self.data))
        return position < end and position + size > start + self.offset


def folder() -> "tempfile.TemporaryDirectory[str]":
    """Where a store is written a hundred times a second."""
    return tempfile.TemporaryDirectory(dir=PARALLEL if PARALLEL.is_dir() else None, prefix="rot")


class Sample:
    """The store as it was made: its files, up to the last byte that is not zero, and what it has to answer."""

    def __init__(self, root: Path, seed: int, log_bytes: int = SMALL_BYTES) -> None:
        self._changed: set[str] = set()
        self._checkpoint = True
        self._is_as_written = False  # but for the files that every start changes
        rig = Rig(root)
        _fill(rig, random.Random(seed), log_bytes)
        self.messages = dict(_messages(rig.store))
        rig.close()
        self.files = {str(p.relative_to(root)): _content(p) for p in sorted(root.rglob("*")) if p.is_file()}
        log = b"".join(data.ljust(size, b"\0") for path, (data, size) in self.files.items() if path.startswith(FOLDER))
        begin = min(int(path.rpartition("/")[2]) for path in self.files if path.startswith(FOLDER))
        self.borders = [found.position for found in records(begin, log)]
        state = self._reopened(root)
        self.unsettled = _unsettled(state, self.messages)
        self.waiting = _waiting(state)
        assert {kind for kind, *_ in self.waiting} == {"delayed", "half", "lite", "subscribed"}

    @staticmethod
    def _reopened(root: Path) -> State:
        rig = Rig(root)
        state = rig.store.state
        rig.crash()
        return state

    def write(self, root: Path, *, checkpoint: bool) -> None:
        """The store as it was; without a checkpoint it is as after a crash at an early time."""
        for name in ("rmq", "lost+found") if self._is_as_written else ("",):
            shutil.rmtree(root / name, ignore_errors=True)
        last = max(path for path in self.files if path.startswith(FOLDER))
        for path, (data, size) in self.files.items():
            full = f"{root}/{path}"
            missing = path in self._changed or path == last or not os.path.exists(full)
            if missing and (checkpoint or not path.startswith("rmq/checkpoint")):
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "wb") as file:
                    file.write(data)
                    file.truncate(size)
        self._is_as_written = True
        self._checkpoint = checkpoint

    def mark(self, damages: list[Damage], *, used: bool) -> None:
        """What a trial changes is to be written anew: of a store that is only read, not much."""
        self._is_as_written = not used
        self._changed = {damage.path for damage in damages}

    def places(self) -> list[tuple[str, int]]:
        """Every byte that was written: file and offset."""
        return [(path, offset) for path, (data, _) in self.files.items() for offset in range(len(data))]

    def is_a_shorter_log(self, damages: list[Damage]) -> bool:
        """What is left is a log in good order that ends earlier: without a checkpoint nothing says that it went on."""
        last = max(path for path in self.files if path.startswith(FOLDER))
        return not self._checkpoint and all(d.path == last and not any(d.data) for d in damages)

    def flip(self, path: str, offset: int, mask: int) -> Damage:
        """One byte becomes another."""
        return Damage(path, offset, bytes((self.files[path][0][offset] ^ mask,)))


def _content(path: Path) -> tuple[bytes, int]:
    """Without the zeros at the end, of which a queue file has megabytes."""
    data = path.read_bytes()
    return data.rstrip(b"\0"), len(data)


def _fill(rig: Rig, rng: random.Random, log_bytes: int) -> None:
    """Messages with keys and tags, a group that has leases, acks, a dead letter, and some that retention carried; among
    them delayed and half ones, some of them ended, and those of lite topics.
    """
    rig.store.apply(GROUP)
    sent = 0
    while rig.store.log.end < log_bytes + SEGMENT_BYTES:
        topic = rig.topic(rng.choice(("orders", "bills")), 2)
        queue = topic.queues[rng.randrange(2)]
        tag = rng.choice(TAGS)
        properties = encode_properties({"UNIQ_KEY": f"ID{sent}", "KEYS": f"k{sent % 7}", "TAGS": tag})
        body = rng.randbytes(rng.choice((1, 40, 900, 5000)))
        rig.store.append(topic, queue, draft(topic.name, queue.queue_id, body, properties), tags_code(tag))
        sent += 1
        if sent % 5 == 0:
            rig.turn()
            _consume(rig, rng, topic.name)
            _wait(rig, rng)
        if sent == 40:
            rig.save()
    rig.turn()
    rig.retain(bytes_max=log_bytes)
    rig.until(lambda: rig.store.keys._reached() >= rig.store.flusher.safe and not rig.store.keys._busy)


def _consume(rig: Rig, rng: random.Random, topic: str) -> None:
    for ledger in rig.take("g", topic, 4):
        offsets = sorted(ledger.open)
        choice = rng.randrange(4)
        if choice == 0:
            rig.ack("g", topic, ledger.queue_id, *offsets[-2:])
        elif choice == 1:
            rig.bury(ledger.open[offsets[-1]])
        elif choice == 2:
            sequence = rig.store.next_sequence()
            rig.store.apply(Extended("g", topic, ledger.queue_id, offsets[0], sequence, rig.now_ms, 1 << 49, 1))
    rig.turn()


def _wait(rig: Rig, rng: random.Random) -> None:
    """What is to be delivered later, and ends of some of it; lite topics and who subscribes them."""
    store, due_ms = rig.store, (1 << 49) + rng.randrange(3)
    first = rig.delay(due_ms)
    match rng.randrange(4):
        case 0:
            rig.fire(first, due_ms, "orders")
        case 1:
            store.apply(TimerEnded(first, due_ms))
    half = rig.begin(due_ms)
    match rng.randrange(4):
        case 0:
            rig.commit(half, "bills")
        case 1:
            store.apply(HalfEnded(half))
        case 2:
            store.apply(HalfChecked(half, due_ms + 1, 1))
    rig.topic(DEVICES, 2, kind=5)
    rig.send(DEVICES, 0, rng.randbytes(40), properties=encode_properties({lites.PROPERTY: "on"}))
    rig.send(DEVICES, 1, rng.randbytes(40), properties=encode_properties({lites.PROPERTY: rng.choice("abc")}))
    rig.turn()
    keys = [lite.key for lite in store.state.lites]
    store.apply(LiteSubscribed("g", DEVICES, rng.choice(("one", "two")), [rng.choice(keys)], []))
    rig.turn()


def _messages(store: Store) -> Iterator[tuple[Place, Message]]:
    """All that can be read."""
    for topic in store.state.topics.values():
        for queue in topic.queues:
            offset = queue.first_offset
            while entries := queue.read(offset, queue.max_offset - offset):
                for entry in entries:
                    found = store.read(queue, offset, entry)
                    if found is not None:
                        message = Message(entry.position, entry.size, found.body, found.properties, entry.tags_code)
                        yield (topic.name, queue.queue_id, offset), message
                    offset += 1


def _unsettled(state: State, messages: Mapping[Place, Message]) -> set[Place]:
    """What the group still has to get, under the names of the log's records: behind its cursor, or open."""
    return {place for place in messages if not _is_settled(state, place)}


def _waiting(state: State) -> dict[tuple[object, ...], Place | None]:
    """Delayed and half messages that have not ended, messages of lite topics and their subscribers; where the log has
    each.
    """
    waiting: dict[tuple[object, ...], Place | None] = {}
    for due_ms, first in state.timers.earliest(len(state.timers)):
        waiting["delayed", first, due_ms] = (timers.TOPIC, 0, state.timers.current(first))
    for first in state.halves.firsts():
        half = state.halves.get(first)
        assert half is not None
        waiting["half", first] = (halves.TOPIC, 0, half.number)
    for lite in state.lites:
        queue = state.queue(lite.topic, lite.queue_id)
        assert queue is not None
        for offset in (one for one in lite.offsets if one >= queue.min_offset):
            waiting["lite", lite.name, lite.queue_id, offset] = (lite.topic, lite.queue_id, offset)
    for group in state.lites.of_topic(DEVICES):
        for client, keys in group.clients.items():
            for key in keys:
                waiting["subscribed", client, key] = None
    return waiting


def _is_settled(state: State, place: Place) -> bool:
    topic, queue_id, offset = place
    subscription = state.leases.subscriptions.get(("g", topic))
    ledger = subscription.ledgers.get(queue_id) if subscription else None
    return ledger is not None and offset < ledger.next and offset not in ledger.open and offset not in ledger.moved


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """What the store says meanwhile, and nobody else hears."""
    logger, handler = logging.getLogger("rmq.store"), _Lines()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def inflict(root: Path, damages: list[Damage]) -> None:
    """Changes files in place."""
    for damage in damages:
        fd = os.open(root / damage.path, os.O_WRONLY)
        os.pwrite(fd, damage.data, damage.offset)
        if damage.length is not None:
            os.ftruncate(fd, damage.length)
        os.close(fd)


def trial(sample: Sample, root: Path, damages: list[Damage], *, checkpoint: bool, again: bool = False) -> str:
    """One store, damaged and opened; raises AssertionError with what is wrong, else says what became of it.

    `again`: also goes on, stops, and opens it once more.
    """
    checkpoint = checkpoint or any(d.path.startswith("rmq/checkpoint") for d in damages)
    sample.write(root, checkpoint=checkpoint)
    inflict(root, damages)
    sample.mark(damages, used=again or any(d.length is not None for d in damages))
    with logged() as lines:
        repaired = any(d.length is not None and d.path.startswith(FOLDER) for d in damages) and repair(root, lines)
        rig = Rig(root)
        try:
            lost = check(sample, rig, damages, lines)
            if again:
                rig.send("orders", 0, b"new")
                rig.turn()
            rig.close() if again else rig.crash()
        finally:
            if rig in Rig.opened:
                rig.crash()
        if again:
            rig = Rig(root)
            lost_again = check(sample, rig, damages, lines, more=1)
            rig.crash()
            assert lost_again == lost, (lost, lost_again)
    if repaired:
        return "repaired"
    return "lost what was hit" if lost else "whole" if not lines else "mended"


def repair(root: Path, lines: list[str]) -> bool:
    """What a user does whose server refuses to start; what it says is added to `lines`."""
    plan = survey(root)
    plan.carry_out()
    lines += [f"damaged: {step.path} {step.why}" for step in plan.steps]
    return bool(plan.steps)


def check(sample: Sample, rig: Rig, damages: list[Damage], lines: list[str], *, more: int = 0) -> set[Place]:
    """Reads everything; returns what is lost."""
    store = rig.store
    found = dict(_messages(store))
    lost = sample.messages.keys() - found.keys()
    for place in lost:
        position, size = sample.messages[place][:2]
        assert any(d.hits(position, size) for d in damages), f"{place} is lost and was not hit"
    wrong = {place for place in found.keys() & sample.messages.keys() if found[place] != sample.messages[place]}
    assert not wrong, f"other messages under the names of {wrong}"
    phantoms = found.keys() - sample.messages.keys()
    assert len(phantoms) <= more, f"never sent: {phantoms}"
    said = any("damaged" in line or "cut off" in line for line in lines)
    assert not lost or said or sample.is_a_shorter_log(damages), f"not a word about {lost}"
    settled = {place for place in sample.unsettled - lost if _is_settled(store.state, place)}
    assert not settled, f"nobody will get {settled}"
    waiting = _waiting(store.state)
    forgotten = [one for one, place in sample.waiting.items() if one not in waiting and place and place not in lost]
    assert not forgotten, f"not waited for any more: {forgotten}"
    if not any(d.path.startswith(FOLDER) for d in damages):
        assert _unsettled(store.state, sample.messages) == sample.unsettled, "settled messages came back"
        assert waiting == sample.waiting, "what had ended waits again, or a subscription is gone"
    return lost


def told(root: Path, damage: Damage) -> bool:
    """Whether `rmq store check` sees it: all of the log is read there."""
    with Inspection(root) as found:
        return any(isinstance(one, Gap) and damage.hits(one.start, one.end - one.start) for one in found.scan())


# -- other damage ------------------------------------------------------------------------------------------------------


def zeroed(sample: Sample, rng: random.Random, block: int) -> list[Damage]:
    """A block is gone, as a disk forgets it."""
    path = rng.choice(sorted(sample.files))
    size = len(sample.files[path][0])
    start = rng.randrange(size // block + 1) * block
    return [Damage(path, start, bytes(min(block, max(size - start, 0))))]


def swapped(sample: Sample, rng: random.Random, block: int) -> list[Damage]:
    """Two blocks of files of the same kind have changed places."""
    first = rng.choice(sorted(sample.files))
    second = rng.choice([path for path in sorted(sample.files) if path.split("/")[:2][0] == first.split("/")[0]])
    pieces = []
    for path in (first, second):
        data, size = sample.files[path]
        start = rng.randrange(max(min(len(data), size) // block, 1)) * block
        pieces.append((path, start, data[start : start + block].ljust(min(block, size - start), b"\0")))
    (path_a, start_a, data_a), (path_b, start_b, data_b) = pieces
    size = min(len(data_a), len(data_b))
    return [Damage(path_a, start_a, data_b[:size]), Damage(path_b, start_b, data_a[:size])]


def cut(sample: Sample, position: int, *, short: bool) -> list[Damage]:
    """The log ends at a position: the rest of that segment is zeros, or its file is short."""
    base = position - position % SEGMENT_BYTES
    path, offset = f"{FOLDER}/{base:020d}", position - base
    return [Damage(path, offset, bytes(SEGMENT_BYTES - offset), offset if short else None)]
