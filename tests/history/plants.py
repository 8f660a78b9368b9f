"""Bugs planted in the real broker, each with the scene in which it does harm and the kind of problem to be found.

A plant replaces the function that is at fault, for as long as its scene lasts; the product has no switch for it. The
same scenes without their plants have no problem: a checker that cries always proves nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from unittest import mock

from msgspec import structs

from rmq.expiry import Expiry
from rmq.groups import Groups
from rmq.message import Outgoing, SendResult
from rmq.port import GroupView
from rmq.priority import Turns
from rmq.transaction import Transactions
from rmq_store import halves, record, recovery
from rmq_store.checkpoint import Checkpoint
from rmq_store.commitlog import CommitLog
from rmq_store.doubt import Doubt
from rmq_store.flush import Flusher
from rmq_store.journal import Change, Extended, HalfEnded, TimerEnded
from rmq_store.record import Record
from rmq_store.state import Origin, State
from rmq_store.timers import TOPIC as TIMERS
from rmq_store.timers import Timers
from tests.history.checker import CHANGED, DEAD, DOUBLED, EARLY, HALF, LEASED, LOST, OUTRANKED, RECALLED, UNDONE
from tests.history.stage import GROUPS, Stage

Scene = Callable[[Stage], None]
Planting = Callable[[], AbstractContextManager[object]]
FIRST, SECOND = GROUPS


@dataclass(frozen=True)
class Plant:
    """`planted` from the beginning of the scene to the end of its drain."""

    name: str
    kind: str
    scene: Scene
    planted: Planting


# -- scenes ------------------------------------------------------------------------------------------------------------


def send_and_lose_power(stage: Stage) -> None:
    """Three messages, acknowledged; then the machine is gone."""
    stage.send("m1", "m2")
    stage.send("m3")
    stage.die(power_cut=True)


def send_and_die(stage: Stage) -> None:
    """The process is killed the moment it has answered."""
    stage.send("m1")
    stage.die()


def ack_and_die(stage: Stage) -> None:
    """What was settled is settled for the next server as well."""
    stage.send("m1", "m2")
    stage.ack(*stage.receive(FIRST))
    stage.die()
    stage.advance(40_000)


def extend_and_die(stage: Stage) -> None:
    """A lease that was made longer is so for the next server as well."""
    stage.send("m1")
    (held,) = stage.receive(FIRST)
    stage.change(held, 200_000)
    stage.die()
    stage.advance(40_000)


def look_twice(stage: Stage) -> None:
    """Nothing comes while it is leased."""
    stage.send("m1", "m2")
    stage.receive(FIRST)
    stage.advance(100)
    stage.receive(FIRST)
    stage.advance(15_000)
    stage.receive(FIRST)


def see_and_lose_power(stage: Stage) -> None:
    """A message is there for one group on a disk that is slow; the machine is gone before it has done its work."""
    stage.send("m1")
    stage.disk.faults.may_sync.clear()
    stage.send_and_leave("m2")
    stage.receive(FIRST)
    stage.die(power_cut=True)


def rot(stage: Stage) -> None:
    """A bit of a body changes on the disk, and nothing may be served of what it was."""
    stage.send("m1")
    stage.send_and_leave("m2")
    stage.rig.settle()
    stage.disk.flip(b"m2 body")


def send_before_and_after(stage: Stage) -> None:
    """A message received before a restart and one sent after it have places of their own."""
    stage.send("m1", "m2")
    stage.ack(*stage.receive(FIRST))
    stage.die()
    stage.send("m3")


def use_up_and_bury(stage: Stage) -> None:
    """One message runs out of attempts, another is given up by its receiver."""
    stage.send("m1", "m2")
    _, second = stage.receive(FIRST)
    stage.bury(second)
    stage.advance(31_000)
    stage.receive(FIRST)
    stage.advance(31_000)
    stage.receive(FIRST)
    stage.advance(31_000)


def rank_and_die(stage: Stage) -> None:
    """Messages of several priorities, some to be delivered again; the next server has others to come."""
    stage.prioritize(3)
    stage.send_ranked(m1=0, m2=2, m3=1, m4=2)
    for held in stage.receive(FIRST):
        stage.change(held, 0)
    stage.die()
    stage.send_ranked(m5=1, m6=9)


def look_before_its_time(stage: Stage) -> None:
    """A delayed message is asked for when half its time has passed, and when all has."""
    stage.send_later("m1", 20_000)
    for _ in range(2):
        stage.advance(10_000)
        stage.receive(FIRST)


def delay_and_die(stage: Stage) -> None:
    """A delayed message waits for the next server as well."""
    stage.send_later("m1", 20_000)
    stage.die()


def recall_and_die(stage: Stage) -> None:
    """What was taken back is so for the next server as well; another comes."""
    handle = stage.send_later("m1", 20_000)
    stage.send_later("m2", 20_000)
    stage.recall("m1", handle)
    stage.die()


def come_due_and_die(stage: Stage) -> None:
    """A delayed message that one group has had is there for the other, where it was."""
    stage.send_later("m1", 20_000)
    stage.advance(21_000)
    stage.ack(*stage.receive(FIRST))
    stage.die()


def begin_and_look(stage: Stage) -> None:
    """A transaction that is open, one that is rolled back, one that is committed."""
    stage.begin("m1")
    ids = {key: stage.begin(key) for key in ("m2", "m3")}
    stage.end("m2", ids["m2"], commit=False)
    stage.receive(FIRST)
    stage.end("m3", ids["m3"], commit=True)
    stage.ack(*stage.receive(FIRST))


def end_twice_with_a_kill_between(stage: Stage) -> None:
    """The producers got no answer, and ask the next server again; one thinks otherwise by then."""
    first, second = stage.begin("m1"), stage.begin("m2")
    stage.end("m1", first, commit=False)
    stage.end("m2", second, commit=True)
    stage.die()
    stage.end("m1", first, commit=True)
    stage.end("m2", second, commit=True)


# -- plants ------------------------------------------------------------------------------------------------------------


def skip_fsync() -> AbstractContextManager[object]:
    """It says that it has synced."""
    return mock.patch("rmq_store.flush._sync_all")


def acknowledge_before_append() -> AbstractContextManager[object]:
    """The answer does not wait for the write."""
    return mock.patch.object(Flusher, "when_safe", lambda _flusher, result: result)


def drop_on_restart() -> AbstractContextManager[object]:
    """A replay forgets the newest message of the log."""
    scan = CommitLog.scan

    def short(log: CommitLog, position: int) -> Iterator[object]:
        found = list(scan(log, position))
        messages = [at for at, one in enumerate(found) if isinstance(one, Record) and one.topic == "orders"]
        return iter(found[: messages[-1]] if messages else found)

    return mock.patch.object(CommitLog, "scan", short)


def forget_the_journal() -> AbstractContextManager[object]:
    """Leases and acks are in memory only."""
    return mock.patch("rmq_store.journal.encode", return_value=[])


def replay_with(owner: type, name: str, instead: Callable[..., None]) -> AbstractContextManager[object]:
    """One step of a replay is another; the live server takes it as it should."""
    replay = recovery.replay

    def replay_wrongly(state: State, found: Record, doubt: Doubt | None = None) -> None:
        with mock.patch.object(owner, name, instead):
            replay(state, found, doubt)

    return mock.patch.object(recovery, "replay", replay_wrongly)


def forgetting(kind: type[Change]) -> AbstractContextManager[object]:
    """A replay passes over changes of a kind."""
    apply = State.apply

    def without(state: State, change: Change) -> None:
        if not isinstance(change, kind):
            apply(state, change)

    return replay_with(State, "apply", without)


def forget_extensions() -> AbstractContextManager[object]:
    """Of leases."""
    return forgetting(Extended)


def forget_recalls() -> AbstractContextManager[object]:
    """A recalled timer waits again."""
    return forgetting(TimerEnded)


def forget_timers() -> AbstractContextManager[object]:
    """A replay sees their records and sets none."""
    return replay_with(Timers, "put", lambda _timers, _number, _due_ms, _first: None)


def forget_that_it_fired() -> AbstractContextManager[object]:
    """In a replay the real message does not end its timer."""
    settle = State.settle_origin

    def without(state: State, origin: Origin, topic: str, queue_id: int, offset: int, due_ms: int) -> None:
        if origin.topic != TIMERS:
            settle(state, origin, topic, queue_id, offset, due_ms)

    return replay_with(State, "settle_origin", without)


def deliver_twice_while_leased() -> AbstractContextManager[object]:
    """Every lease ends at the next tick."""

    def end_all(expiry: Expiry, _now_ms: int, _limit: int) -> None:
        for lease in list(expiry._leases.leases.values()):
            expiry.end(lease)

    return mock.patch.object(Expiry, "tick", end_all)


def fire_early() -> AbstractContextManager[object]:
    """The clock of delayed messages is fast."""
    head = Timers.head

    def fast(timers: Timers, now_ms: int, limit: int) -> tuple[int, Sequence[int]]:
        return head(timers, now_ms + 15_000, limit)

    return mock.patch.object(Timers, "head", fast)


def end_leases_early() -> AbstractContextManager[object]:
    """The clock of leases is fast."""
    tick = Expiry.tick

    def fast(expiry: Expiry, now_ms: int, limit: int) -> None:
        tick(expiry, now_ms + 20_000, limit)

    return mock.patch.object(Expiry, "tick", fast)


def skip_a_crc() -> AbstractContextManager[object]:
    """Records are taken as they are."""

    def unchecked(data: bytes, start: int, _body: bytes, _crc: int, *, foreign: bool) -> bytes:
        del foreign
        return data[start : len(data) - record._CRC_BYTES]

    return mock.patch.object(record, "_checked_properties", unchecked)


def show_unflushed_messages() -> AbstractContextManager[object]:
    """What is written is shown, synced or not."""
    end_turn = Flusher.end_turn

    def eager(flusher: Flusher) -> None:
        end_turn(flusher)
        flusher._on_safe(flusher._log.written)

    return mock.patch.object(Flusher, "end_turn", eager)


def reuse_an_offset() -> AbstractContextManager[object]:
    """A queue goes on one before its end."""
    recover = recovery.recover

    def short(log: CommitLog, state: State, checkpoint: Checkpoint | None) -> recovery.Report:
        report = recover(log, state, checkpoint)
        for queue in (queue for topic in state.topics.values() for queue in topic.queues if queue.max_offset):
            queue.max_offset -= 1
            del queue._tail[-20:]
        return report

    return mock.patch.object(recovery, "recover", short)


def give_up_too_soon() -> AbstractContextManager[object]:
    """One attempt fewer than the group's setting."""
    rules = Groups.rules

    def fewer(groups: Groups, name: str) -> GroupView:
        view = rules(groups, name)
        return GroupView(view.fifo, view.attempts_max - 1, view.retry)

    return mock.patch.object(Groups, "rules", fewer)


def lose_a_tag() -> AbstractContextManager[object]:
    """It is stored under another name."""
    encode = record.encode

    def misnamed(draft: record.Draft, position: int, queue_offset: int, store_ms: int, host: bytes, port: int) -> bytes:
        return encode(
            structs.replace(draft, properties=draft.properties.replace(b"TAGS", b"TAGZ")),
            position,
            queue_offset,
            store_ms,
            host,
            port,
        )

    return mock.patch.object(record, "encode", misnamed)


def take_the_lowest_first() -> AbstractContextManager[object]:
    """Every turn is the lowest one's."""
    return mock.patch.object(Turns, "next", lambda turns: (turns._left[-1], 0) if turns._left else None)


def lose_the_priority() -> AbstractContextManager[object]:
    """Every message goes to the queue of the lowest."""
    return mock.patch("rmq.priority.queue_of", return_value=0)


def show_half_messages() -> AbstractContextManager[object]:
    """They are stored as any message, and forgotten when they are rolled back."""

    def plainly(
        transactions: Transactions,
        topic: str,
        messages: Sequence[Outgoing],
        drafts: Sequence[tuple[record.Draft, int]],
    ) -> list[SendResult]:
        results = send(transactions, topic, messages, drafts)
        transactions._store.append_all(transactions._store.state.topics[topic].queues[0], drafts)
        return results

    send = Transactions.send
    return mock.patch.object(Transactions, "send", plainly)


def forget_ends() -> AbstractContextManager[object]:
    """A replay does not know that a transaction has ended."""
    apply, settle, replay = State.apply, State.settle_origin, recovery.replay

    def without(state: State, change: Change) -> None:
        if not isinstance(change, HalfEnded):
            apply(state, change)

    def unsettled(state: State, origin: Origin, topic: str, queue_id: int, offset: int, due_ms: int) -> None:
        if origin.topic != halves.TOPIC:
            settle(state, origin, topic, queue_id, offset, due_ms)

    def replay_without(state: State, found: Record, doubt: Doubt | None = None) -> None:
        with mock.patch.object(State, "apply", without), mock.patch.object(State, "settle_origin", unsettled):
            replay(state, found, doubt)

    return mock.patch.object(recovery, "replay", replay_without)


PLANTS = (
    Plant("skip fsync", LOST, send_and_lose_power, skip_fsync),
    Plant("acknowledge before append", LOST, send_and_die, acknowledge_before_append),
    Plant("drop on restart", LOST, send_and_die, drop_on_restart),
    Plant("forget the journal", UNDONE, ack_and_die, forget_the_journal),
    Plant("forget an extension", LEASED, extend_and_die, forget_extensions),
    Plant("deliver twice while leased", LEASED, look_twice, deliver_twice_while_leased),
    Plant("end leases early", LEASED, look_twice, end_leases_early),
    Plant("fire early", EARLY, look_before_its_time, fire_early),
    Plant("forget timers", LOST, delay_and_die, forget_timers),
    Plant("forget a recall", RECALLED, recall_and_die, forget_recalls),
    Plant("fire twice", DOUBLED, come_due_and_die, forget_that_it_fired),
    Plant("skip a CRC", CHANGED, rot, skip_a_crc),
    Plant("show unflushed messages", LOST, see_and_lose_power, show_unflushed_messages),
    Plant("reuse an offset", DOUBLED, send_before_and_after, reuse_an_offset),
    Plant("wrong dead letter", DEAD, use_up_and_bury, give_up_too_soon),
    Plant("take the lowest first", OUTRANKED, rank_and_die, take_the_lowest_first),
    Plant("lose the priority", OUTRANKED, rank_and_die, lose_the_priority),
    Plant("half messages seen", HALF, begin_and_look, show_half_messages),
    Plant("forget how a transaction ended", HALF, end_twice_with_a_kill_between, forget_ends),
    Plant("commit twice", DOUBLED, end_twice_with_a_kill_between, forget_ends),
    Plant("lose a tag", CHANGED, send_and_die, lose_a_tag),
)
