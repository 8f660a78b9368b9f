"""Order behind lost bytes of the log: what the entries that are left tell of lines, and what comes of each in order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rmq_store.doubt import Doubt
from rmq_store.journal import Acked, Change, Cursors, Extended, Grouped, Leased, LitePlaces
from rmq_store.ledger import Ledger
from rmq_store.lines import PROPERTY, key_of
from rmq_store.lites import PROPERTY as LITE
from rmq_store.record import encode_properties
from tests.sim.disk import SimDisk
from tests.store.support import Rig

PARENT = "parent"
A, B = key_of(PARENT, "a"), key_of(PARENT, "b")
X = key_of("x")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Messages of lite topics a, b, a, a; others of one message group."""
    rig = Rig(tmp_path, SimDisk())
    for name in ("a", "b", "a", "a"):
        rig.send(PARENT, properties=encode_properties({LITE: name}))
    for _ in range(4):
        rig.send("lanes", properties=encode_properties({PROPERTY: "x"}))
    rig.turn()
    yield rig
    rig.crash()


def lines_of(ledger: Ledger) -> dict[int, list[int]]:
    """Offsets by key."""
    lines = ledger.lines
    return (
        {} if lines is None else {key: [lines.at(key, n) for n in range(lines.length(key))] for key in lines.groups()}
    )


def replay(rig: Rig, *changes: Change, topic: str = PARENT) -> Ledger:
    """These, right behind a loss; then the log ends. Returns the place of group g in queue 0 of the topic."""
    doubt = Doubt(rig.store.state, rig.store.log)
    doubt.begin(rig.store.log.end)
    for change in changes:
        assert doubt.before(change)
        rig.store.state.apply(change)
    doubt.end()
    return rig.store.state.leases.subscription("g", topic).ledger(0)


def leased(*offsets: int, next_offset: int = 4, attempt: int = 2) -> Leased:
    """A delivery that is not the first."""
    steps = [offset - before for offset, before in zip(offsets, (0, *offsets), strict=False)]
    return Leased("g", PARENT, 7, 0, 1 << 50, "", [(0, next_offset, steps, [attempt] * len(steps))])


def place(rig: Rig, key: int) -> int:
    """Of the group, in a lite topic."""
    known = rig.store.state.lites.group("g", PARENT)
    assert known is not None
    return known.places[key].next


@pytest.mark.parametrize(
    "told",
    [leased(2), Extended("g", PARENT, 0, 2, 7, 0, 1 << 50, 2)],
    ids=["delivered again", "its lease has another end"],
)
def test_what_somebody_has_of_a_lite_topic_is_in_line_behind_what_was_before_it(rig: Rig, told: Change) -> None:
    """Its first delivery is lost, and so is that of the one before: that one comes first, what is behind it later."""
    rig.store.apply(LitePlaces("g", PARENT, [(A, 0), (B, 0)]))
    ledger = replay(rig, told)
    assert lines_of(ledger) == {A: [0, 2]}
    assert {offset: found.lease is not None for offset, found in ledger.open.items()} == {0: False, 2: True}
    assert (place(rig, A), place(rig, B)) == (3, 0)


@pytest.mark.parametrize("told", [leased(2), Acked("g", PARENT, [(0, [2])])], ids=["delivered again", "acknowledged"])
def test_what_retention_put_in_line_again_proves_the_place(rig: Rig, told: Change) -> None:
    """The entries of its first delivery are lost, and with them the group's place: what was before it comes first."""
    rig.store.apply(LitePlaces("g", PARENT, [(A, 0)]))
    ledger = replay(rig, Grouped("g", PARENT, [(0, [2], [A])]), told)
    assert lines_of(ledger) == {A: [0, 2]}
    assert place(rig, A) == 3


def test_a_delivery_behind_a_place_that_is_told_is_one_as_any(rig: Rig) -> None:
    """What it passes over was passed by a filter."""
    rig.store.apply(LitePlaces("g", PARENT, [(A, 0)]))
    told = LitePlaces("g", PARENT, [(A, 1)])
    ledger = replay(rig, Acked("g", PARENT, [(0, [0])]), told, Grouped("g", PARENT, [(0, [3], [A])]), leased(3))
    assert lines_of(ledger) == {A: [3]}


def test_what_somebody_has_before_its_group_s_place_is_in_line(rig: Rig) -> None:
    """The place was moved back, in lost bytes."""
    rig.store.apply(LitePlaces("g", PARENT, [(A, 3)]))
    ledger = replay(rig, leased(0))
    assert lines_of(ledger) == {A: [0]}
    assert place(rig, A) == 3


def test_an_ack_proves_a_delivery_of_a_lite_topic(rig: Rig) -> None:
    """The delivery is lost: what is acknowledged does not come again, what was before it does."""
    rig.store.apply(LitePlaces("g", PARENT, [(A, 0)]))
    ledger = replay(rig, Acked("g", PARENT, [(0, [0, 2])]))
    assert (lines_of(ledger), sorted(ledger.open), place(rig, A)) == ({}, [], 3)


def test_an_end_of_what_nobody_is_known_to_have_leaves_it_to_come_again(rig: Rig) -> None:
    """Its delivery is lost, and that it is over is not."""
    rig.store.apply(LitePlaces("g", PARENT, [(A, 0)]))
    ledger = replay(rig, Extended("g", PARENT, 0, 0, 0, 0, 0, 1))
    assert (lines_of(ledger), ledger.open[0].lease) == ({A: [0]}, None)


def test_a_place_that_goes_back_was_moved_by_somebody(rig: Rig) -> None:
    """The entry that says so is lost: what the group held behind the place comes as new, in order."""
    rig.store.apply(LitePlaces("g", PARENT, [(A, 4)]))
    rig.store.apply(Grouped("g", PARENT, [(0, [2, 1], [A, A])]))
    rig.store.apply(leased(2, 3))
    ledger = replay(rig, Grouped("g", PARENT, [(0, [0], [A])]), leased(0, attempt=1), LitePlaces("g", PARENT, [(A, 1)]))
    assert (lines_of(ledger), sorted(ledger.open), place(rig, A)) == ({A: [0]}, [0], 1)


def test_what_was_taken_for_an_ordinary_group_s_is_in_line_where_it_is_known_later(rig: Rig) -> None:
    """That the group reads by lite topics is lost, and told again behind a delivery: what its place passes over comes
    before what is behind it; what is behind the place comes as new, and so of a lite topic where it had no place.
    """
    first = Grouped("g", PARENT, [(0, [2], [A])])
    ledger = replay(rig, first, leased(2), LitePlaces("g", PARENT, [(A, 3)]))
    assert (lines_of(ledger), sorted(ledger.open)) == ({A: [0, 2]}, [0, 2])


def test_a_line_of_a_lite_topic_proves_that_its_group_reads_by_them(rig: Rig) -> None:
    """Nothing else that is left says so: what the place passes over comes in order, what is behind it later."""
    ledger = replay(rig, Grouped("g", PARENT, [(0, [2], [A])]), leased(2))
    assert (lines_of(ledger), sorted(ledger.open), place(rig, A)) == ({A: [0, 2]}, [0, 2], 3)


def test_what_somebody_has_is_in_line_where_the_lite_topics_are_known_later(rig: Rig) -> None:
    """As above, and the entry with its line is lost, too."""
    ledger = replay(rig, leased(2), LitePlaces("g", PARENT, [(A, 0)]))
    assert (lines_of(ledger), place(rig, A)) == ({A: [0, 2]}, 3)


def test_an_ack_proves_that_a_message_was_parked_no_more(rig: Rig) -> None:
    """Its delivery is lost: behind one that is open the ack is early, and undone with it; it comes in its turn."""
    rig.store.apply(Grouped("g", "lanes", [(0, [0, 1, 1], [X, X, X])]))
    rig.store.apply(Cursors("g", "lanes", [(0, 3)]))
    ledger = replay(rig, Acked("g", "lanes", [(0, [1])]), topic="lanes")
    assert ledger.lines is not None
    assert (lines_of(ledger), ledger.lines.early, ledger.parked()) == ({X: [0, 1, 2]}, {1: 0}, [0, 2])


def test_an_ack_that_was_undone_is_of_its_line_again_though_nothing_is_lost(rig: Rig) -> None:
    """Retention has deleted the delivery of the one before it, so a replay took the ack for one of the front; then it
    meets that one, carried out of what was deleted, and the end of the ack, which its lease's end brought.
    """
    state = rig.store.state
    doubt = Doubt(state, rig.store.log)
    for change in (
        Grouped("g", "lanes", [(0, [1], [X])]),
        Leased("g", "lanes", 7, 0, 1 << 50, "", [(0, 2, [1], [])]),
        Acked("g", "lanes", [(0, [1])]),
        Grouped("g", "lanes", [(0, [0], [X])]),
        Leased("g", "lanes", 8, 0, 1, "", [(0, 2, [0], [])]),
        Extended("g", "lanes", 0, 1, 9, 1, 1, 1),
    ):
        assert doubt.before(change)
        state.apply(change)
    ledger = state.leases.subscription("g", "lanes").ledger(0)
    assert (lines_of(ledger), sorted(ledger.open), ledger.parked()) == ({X: [0, 1]}, [0, 1], [])


def test_what_is_of_no_lite_topic_is_not_for_a_group_that_reads_by_them(rig: Rig) -> None:
    """It lies among the others, and was passed over; a delivery that is known stays, though its message is lost."""
    assert rig.send(PARENT) == 4
    rig.turn()
    ledger = replay(rig, leased(9, next_offset=10), LitePlaces("g", PARENT, [(A, 0)]))
    assert (lines_of(ledger), sorted(ledger.open)) == ({}, [9])


def test_a_start_without_a_loss_changes_no_line(rig: Rig) -> None:
    """What a group held before it read by lite topics stays what it was."""
    rig.store.apply(leased(0))
    rig.store.apply(LitePlaces("g", PARENT, []))
    Doubt(rig.store.state, rig.store.log).end()
    assert lines_of(rig.store.state.leases.subscription("g", PARENT).ledger(0)) == {}
