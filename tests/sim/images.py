"""Crash images: what a start finds after a crash at a moment of a workload, and whether all promises hold then.

    killed      the disk as it was: the page cache outlives the process
    power cut   what was synced, and any part of the rest (disk.py)

Each with one of the checkpoints that LMDB may have left, and with those that it cannot have, but somebody's hands:

    last     of the last commit before the moment
    torn     the same, over pages that the next commit had begun to write
    stale    of an earlier commit
    new      of a later commit, beyond the log's end
    missing

`Image.check` opens a fresh broker on it, and raises AssertionError with all that is wrong. Some are cut off once more
while they recover, and some are used and cut off again.
"""

import dataclasses
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rmq.message import KEYS, LITE_TOPIC, SHARDING_KEY, TAGS, Delivered
from rmq.port import ReceiveRequest
from rmq_store.halves import TOPIC as HALVES
from rmq_store.state import Origin
from rmq_store.timers import TOPIC as TIMERS
from tests.rmq.rig import outgoing, request
from tests.sim.disk import SimDisk
from tests.sim.rig import SimClock, SimRig, unsynced
from tests.sim.story import Cut, Op, Sent
from tests.sim.workload import GROUPS, TOPICS, Moment, Workload

CHECKPOINTS = ("last", "last", "torn", "stale", "new", "missing")
_PAGE_BYTES = 4096
_META_PAGES = 2  # LMDB's first pages: which of them is newer decides
_LONG_MS = 1_000_000_000  # every lease has ended
LEASE_MS = _LONG_MS // 2
DRAINED_MAX = 1_000  # more than a workload sends


@dataclasses.dataclass
class Stored:
    """A message as it lies in a queue."""

    topic: str
    place: tuple[int, int]
    sent: Sent
    is_fired: bool  # of a delayed message: it has come due


class Image:
    """One start after one crash."""

    def __init__(self, run: Workload, moment: Moment, rng: random.Random) -> None:
        self._run, self._moment, self._rng = run, moment, rng
        self.power_cut = rng.random() < 0.7
        self.checkpoint = rng.choice(CHECKPOINTS)
        fast = run.settings.flush != "durable"
        self._cut = Cut(moment.at, moment.now_ms, moment.synced, only_synced=fast and self.power_cut)
        self.kind = f"{'power cut' if self.power_cut else 'killed'}, {self.checkpoint}"
        self._wrong: list[str] = []

    def check(self) -> None:
        """Raises AssertionError where a promise does not hold."""
        disk = self._moment.disk.after_power_cut(self._rng) if self.power_cut else self._moment.disk.frozen()
        folder = Path(tempfile.mkdtemp())
        try:
            self._leave_checkpoint(folder, self._moment.disk)
            if self._rng.random() < 0.2:
                disk = self._cut_off_again(folder, disk)
            rig = self._start(folder, disk)
            self._look(rig)
            rig.abandon()
            rig.checkpoint.close()
        finally:
            shutil.rmtree(folder)
        assert not self._wrong, "; ".join(self._wrong)

    def _start(self, folder: Path, disk: SimDisk) -> SimRig:
        rig = SimRig(self._run.settings, folder, disk, self._rng, SimClock(self._moment.now_ms))
        rig.broker.tick()
        rig.turn()
        return rig

    def _cut_off_again(self, folder: Path, disk: SimDisk) -> SimDisk:
        """While it starts, or soon after: at one of the steps of the disk that this takes."""
        steps: list[SimDisk] = []
        disk.on_event = lambda operation, path: steps.append(disk.frozen())
        rig = self._start(folder, disk)
        rig.settle()
        rig.abandon()
        rig.checkpoint.close()
        if not steps:
            return disk
        step = self._rng.choice(steps)
        return step.after_power_cut(self._rng) if self.power_cut else step

    # -- the checkpoint ----------------------------------------------------------------------------------------------

    def _leave_checkpoint(self, folder: Path, disk: SimDisk) -> None:
        content = self._checkpoint_bytes(self._run.checkpoints, self._moment.commits)
        if content is not None:
            (folder / "data.mdb").write_bytes(content)

    def _checkpoint_bytes(self, all_: list[bytes], commits: int) -> bytes | None:
        if self.checkpoint == "missing" or not commits:
            return None
        if self.checkpoint == "stale":
            return all_[self._rng.randrange(commits)]
        if self.checkpoint == "torn" and commits < len(all_):
            return _torn(all_[commits - 1], all_[commits], self._rng)
        if self.checkpoint == "new" and self._is_beyond(len(all_) - 1):
            return all_[-1]
        return all_[commits - 1]

    def _is_beyond(self, commit: int) -> bool:
        return self._run.positions[commit] > self._moment.written

    # -- what is there -----------------------------------------------------------------------------------------------

    def _look(self, rig: SimRig) -> None:
        stored = self._stored(rig)
        self._check_stored(rig, stored)
        rig.settle()  # what the start found due, too
        now = self._deliver(rig)
        rig.advance(_LONG_MS)
        rig.settle()
        later = self._deliver(rig)
        letters = Counter(self._letters(rig))
        for group, topic in self._pairs():
            self._check_group(group, topic, stored, now, later, letters)
        self._check_delayed(stored, now, later)
        self._check_letters(letters)
        self._check_use(rig)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """Groups, and the topics that they read."""
        return ((group, topic) for group in GROUPS for topic in self._run.topics)

    def _stored(self, rig: SimRig) -> dict[str, list[Stored]]:
        """By name, all messages of the workload's topics."""
        found: dict[str, list[Stored]] = {}
        for topic, place, body, properties in _rows(rig):
            origin = Origin.parse(properties.get(Origin.PROPERTY, ""))
            if topic.startswith("%") or topic in ("filler", TIMERS, HALVES) or (origin and origin.topic == HALVES):
                continue
            line = properties.get(SHARDING_KEY) or properties.get(LITE_TOPIC, "")
            sent = Sent(body, topic, properties.get(TAGS, ""), properties.get(KEYS, ""), line)
            found.setdefault(body, []).append(Stored(topic, place, sent, Origin.PROPERTY in properties))
        return found

    def _check_stored(self, rig: SimRig, stored: Mapping[str, list[Stored]]) -> None:
        for name, rows in stored.items():
            sent = self._run.story.may_be_stored(name, self._cut, delayed=rows[0].is_fired)
            if sent is None:
                self._wrong.append(f"{name} was not sent, or went with its topic: {rows}")
            elif len(rows) > 1:
                self._wrong.append(f"{name} is there {len(rows)} times: {rows}")
            elif dataclasses.replace(sent, place=None) != rows[0].sent:
                self._wrong.append(f"{rows[0]} was sent as {sent}")
        for sent in self._run.story.must_be_stored(self._cut):
            places = [row.place for row in stored.get(sent.name, ())]
            if places != [sent.place] and not self._is_gone(rig, sent):
                self._wrong.append(f"{sent} was acknowledged, and is found at {places}")

    def _is_gone(self, rig: SimRig, sent: Sent) -> bool:
        """Retention has begun to take its segment, or took it."""
        assert sent.place is not None
        queue = rig.broker._store.state.queue(sent.topic, sent.place[0])
        begin = self._moment.begins.get((sent.topic, sent.place[0]), 0)
        return sent.place[1] < max(begin, queue.min_offset if queue else 0)

    def _deliver(self, rig: SimRig) -> Counter[tuple[str, str]]:
        """All that comes to each group, each acknowledged: (group, name) and how often."""
        found: Counter[tuple[str, str]] = Counter()
        for group in GROUPS:
            for topic in self._run.topics:
                wanted = request(topic, group, batch=32, invisible_ms=LEASE_MS)
                found.update((group, message.body.decode()) for message in self._drain(rig, wanted))
        return found

    def _drain(self, rig: SimRig, wanted: ReceiveRequest) -> Sequence[Delivered]:
        """All that comes, each acknowledged, until nothing does."""
        came: list[Delivered] = []
        while messages := rig.receive(wanted):
            came += messages
            if len(came) > DRAINED_MAX:
                self._wrong.append(f"it does not end: {came[-1]}")
                break
            rig.ack(*(message.handle for message in messages), topic=wanted.topic, group=wanted.group)
        return came

    def _letters(self, rig: SimRig) -> Iterator[tuple[str, str]]:
        for topic, _, body, _ in _rows(rig):
            if topic.startswith("%DLQ%"):
                yield topic.removeprefix("%DLQ%"), body

    def _check_group(
        self,
        group: str,
        topic: str,
        stored: Mapping[str, list[Stored]],
        now: Counter[tuple[str, str]],
        later: Counter[tuple[str, str]],
        letters: Counter[tuple[str, str]],
    ) -> None:
        story, cut = self._run.story, self._cut
        for name, op in (story.sends | story.delays).items():
            key = (group, name)
            if op.sent.topic != topic:
                continue
            if now[key] + later[key] > 1 and not self._may_double(group, name):
                self._wrong.append(f"{key} is delivered {now[key]} and {later[key]} times")
            if (now[key] or later[key]) and self._is_over(group, op.sent):
                self._wrong.append(f"{key} is delivered after its end was acknowledged")
            if now[key] and self._is_invisible(group, op.sent):
                self._wrong.append(f"{key} is delivered while it is invisible")
            if now[key] or later[key] or letters[key]:
                continue
            if self._moment.begin and self._may_be_used_up(group, name):
                continue  # a dead letter that retention took
            if self._is_owed(group, op, stored.get(name, ())):
                self._wrong.append(f"{key} is lost: {story.ops(group, name, cut)}")

    def _may_double(self, group: str, name: str) -> bool:
        """What was done to it may be lost, and then it may come twice."""
        return self._cut.only_synced and not self._run.story.all_is_kept(group, name, self._cut)

    def _is_over(self, group: str, sent: Sent) -> bool:
        """It must not come again."""
        return self._run.story.is_settled(group, sent.name, self._cut)

    def _is_invisible(self, group: str, sent: Sent) -> bool:
        """It must not come yet."""
        return self._run.story.is_invisible(group, sent.name, self._cut)

    def _is_owed(self, group: str, sent: Op, rows: Sequence[Stored]) -> bool:
        """It must come."""
        if self._run.story.may_be_settled(group, sent.sent.name, self._cut):
            return False
        return self._is_kept(rows) or (
            self._cut.keeps(sent) and self._run.story.was_taken(group, sent.sent.name, self._cut)
        )

    def _is_kept(self, rows: Sequence[Stored]) -> bool:
        """Retention has not begun to take it."""
        return any(row.place[1] >= self._moment.begins.get((row.topic, row.place[0]), 0) for row in rows)

    def _check_delayed(
        self, stored: Mapping[str, list[Stored]], now: Counter[tuple[str, str]], later: Counter[tuple[str, str]]
    ) -> None:
        """None before its time, none that was recalled, and those that wait are not forgotten."""
        story, cut = self._run.story, self._cut
        for name, op in story.delays.items():
            came = {group for group in GROUPS if now[group, name] or later[group, name]}
            is_early = op.due_ms > self._moment.now_ms and (name in stored or any(now[group, name] for group in GROUPS))
            if is_early:
                self._wrong.append(f"{op} is delivered before its time")
            if (came or name in stored) and (story.is_recalled(name, cut) or not cut.saw(op)):
                self._wrong.append(f"{op} was recalled, or not sent yet, and comes")
            may_be_gone = (
                op.due_ms <= self._moment.now_ms and self._moment.begin > op.start
            )  # delivered, and its segment went
            must_wait = cut.keeps(op) and not may_be_gone and not story.may_be_recalled(name, cut)
            if must_wait and name not in stored and came != set(GROUPS):
                self._wrong.append(f"{op} is lost: it comes to {came or 'nobody'}")

    def _check_letters(self, letters: Counter[tuple[str, str]]) -> None:
        story, cut = self._run.story, self._cut
        for (group, name), count in letters.items():
            if count > self._deaths_max(group, name) or not (
                self._may_be_used_up(group, name) or story.may_be_buried(group, name, cut)
            ):
                self._wrong.append(f"{name} of {group} is {count} dead letters: {story.ops(group, name, cut)}")
        for group in self._run.attempts:
            for name in story.sends | story.delays:
                if story.must_be_buried(group, name, cut, self._moment.begin) and not letters[group, name]:
                    self._wrong.append(f"{name} of {group} was buried, and is no dead letter")

    def _may_be_used_up(self, group: str, name: str) -> bool:
        return self._run.story.takes(group, name, self._cut) >= self._run.attempts[group]

    def _deaths_max(self, group: str, name: str) -> int:
        """How many dead letters a message may become."""
        del group, name
        return 1

    def _check_use(self, rig: SimRig) -> None:
        """It is as good as any store: what is sent now outlasts the next crash."""
        (result,) = rig.send(outgoing("new", topic=TOPICS[0]))
        if self._run.settings.flush != "durable":
            rig.loop.run_until(lambda: rig.broker._store.flusher.synced >= rig.broker._store.log.end, 10.0)
        if self._rng.random() < 0.2:
            rig.end_life("power cut", self._rng)
        for group in GROUPS:
            if not any(message.body == b"new" for message in rig.receive(request(TOPICS[0], group, batch=32))):
                self._wrong.append(f"a message sent afterwards does not come to {group}")
        found = [row.place for row in self._stored(rig).get("new", ())]
        if found != [(result.queue_id, result.queue_offset)]:
            self._wrong.append(f"a message sent afterwards is found at {found}, not at {result}")


def _rows(rig: SimRig) -> Iterator[tuple[str, tuple[int, int], str, dict[str, str]]]:
    """Every message that a queue points to: topic, (queue id, offset), body, properties."""
    store = rig.broker._store
    for topic in list(store.state.topics.values()):
        for queue in topic.queues:
            for offset in range(queue.min_offset, queue.max_offset):
                record = store.read(queue, offset, queue.read(offset, 1)[0])
                if record is not None:
                    yield topic.name, (queue.queue_id, offset), record.body.decode(), record.decode_properties()


def _torn(before: bytes, after: bytes, rng: random.Random) -> bytes:
    """A commit wrote some of its pages, and not the one that makes them count."""
    pages = bytearray(after)
    for at in range(0, len(after), _PAGE_BYTES):
        if at < _META_PAGES * _PAGE_BYTES or rng.random() < 0.5:
            pages[at : at + _PAGE_BYTES] = before[at : at + _PAGE_BYTES].ljust(_PAGE_BYTES, b"\0")
    return bytes(pages)


def play(
    seed: int,
    flush: str,
    *,
    images: int,
    verbs: int = 150,
    workload: Callable[..., Workload] = Workload,
    image_of: Callable[..., Image] = Image,
) -> Counter[str]:
    """One workload and so many images of it; counts of what they were. Raises with the seed in the message."""
    counts: Counter[str] = Counter()
    folder = Path(tempfile.mkdtemp())
    try:
        with unsynced():
            run = workload(seed, flush, folder, keep=images / (2 * verbs))
            run.run(verbs)
            rng = random.Random(seed)
            for number in range(images):
                image = image_of(run, rng.choice(run.moments), random.Random(rng.getrandbits(64)))
                counts[f"{flush}, {image.kind}"] += 1
                try:
                    image.check()
                except Exception as error:  # whatever it is, the seed tells how to see it again
                    raise AssertionError(
                        f"images.play({seed}, {flush!r}), image {number} ({image.kind}): {error}"
                    ) from error
    finally:
        shutil.rmtree(folder)
    return counts
