"""The checker itself: it finds each planted fault, and nothing in a history of a server that keeps its promises."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.crash.history import (
    CHANGED,
    DOUBLED,
    EARLY,
    LEASED,
    LOST,
    PHANTOM,
    RECALLED,
    UNDONE,
    Ack,
    Delivery,
    History,
    Outcome,
    Recall,
    Release,
    Send,
    check,
)

KEY = "k1"
SEND = Send(KEY, "t", b"digest", 1000, 1010, Outcome.OK)
DELIVERY = Delivery("g", KEY, b"digest", ("t", 0, 0), 1020, 1030, 1040, 500)
ACK = Ack("g", KEY, 1050, 1060, Outcome.OK)


def good() -> History:
    """One message sent, received and settled."""
    return History(("g",), [SEND], [DELIVERY], [ACK])


def lost(history: History) -> None:
    """An acknowledged send that never comes."""
    history.deliveries.clear()
    history.acks.clear()


def lost_to_one_group(history: History) -> None:
    """One group has it, another has not."""
    history.groups = ("g", "other")


def vanished(history: History) -> None:
    """Received, never settled, and not delivered again."""
    history.acks.clear()


def vanished_after_a_refused_ack(history: History) -> None:
    """A refused ack settles nothing."""
    history.acks[:] = [replace(ACK, outcome=Outcome.FAILED)]


def phantom(history: History) -> None:
    """A message out of nothing."""
    history.deliveries.append(replace(DELIVERY, key="k2", place=("t", 0, 1)))


def refused_but_stored(history: History) -> None:
    """The sender was told no, and it came."""
    history.sends[:] = [replace(SEND, outcome=Outcome.FAILED)]


def changed(history: History) -> None:
    """Another body."""
    history.deliveries[:] = [replace(DELIVERY, digest=b"other")]


def misplaced(history: History) -> None:
    """Another topic."""
    history.deliveries[:] = [replace(DELIVERY, place=("u", 0, 0))]


def stored_twice(history: History) -> None:
    """The same message at two offsets: each is delivered and settled."""
    history.deliveries.append(replace(DELIVERY, place=("t", 0, 1), served_ms=1045, began_ms=9000, ended_ms=9010))


def overwritten(history: History) -> None:
    """Two messages had the same offset: one took the other's place."""
    history.sends.append(replace(SEND, key="k2"))
    history.deliveries.append(replace(DELIVERY, key="k2"))
    history.acks.append(replace(ACK, key="k2"))


def undone(history: History) -> None:
    """Delivered again after its ack was answered, a kill in between or not."""
    history.kills.append(1500)
    history.deliveries.append(replace(DELIVERY, began_ms=2000, served_ms=2000, ended_ms=2010))


def given_twice(history: History) -> None:
    """Two consumers of a group had it at a time."""
    history.deliveries.append(replace(DELIVERY, began_ms=1035, served_ms=1045, ended_ms=1048))


def early(history: History) -> None:
    """Delayed, and there before its time."""
    history.sends[:] = [replace(SEND, due_ms=1041)]


def recalled(history: History) -> None:
    """Called back, and delivered."""
    history.recalls.append(Recall(KEY, Outcome.OK))


def lost_though_its_recall_failed(history: History) -> None:
    """A refused recall takes nothing back."""
    lost(history)
    history.recalls.append(Recall(KEY, Outcome.FAILED))


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        (lost, {LOST}),
        (lost_to_one_group, {LOST}),
        (vanished, {LOST}),
        (vanished_after_a_refused_ack, {LOST}),
        (phantom, {PHANTOM}),
        (refused_but_stored, {PHANTOM}),
        (changed, {CHANGED}),
        (misplaced, {CHANGED}),
        (stored_twice, {DOUBLED}),
        (overwritten, {DOUBLED}),
        (undone, {UNDONE}),
        (given_twice, {LEASED}),
        (early, {EARLY}),
        (recalled, {RECALLED}),
        (lost_though_its_recall_failed, {LOST}),
    ],
)
def test_finds_what_is_planted(plant: Callable[[History], None], kinds: set[str]) -> None:
    """Each fault under its name, and nothing else."""
    history = good()
    plant(history)
    assert {problem.kind for problem in check(history)} == kinds


def sends_cut_off(history: History) -> None:
    """Of two sends without an answer one was stored."""
    history.sends[:] = [replace(SEND, outcome=Outcome.UNKNOWN), replace(SEND, key="k2", outcome=Outcome.UNKNOWN)]


def in_time(history: History) -> None:
    """Delayed, and there at its millisecond."""
    history.sends[:] = [replace(SEND, due_ms=1040)]


def taken_back(history: History) -> None:
    """Recalled, and never seen."""
    lost(history)
    history.recalls.append(Recall(KEY, Outcome.OK))


def recall_cut_off(history: History) -> None:
    """It may have been done, or not."""
    history.recalls.append(Recall(KEY, Outcome.UNKNOWN))


def recall_cut_off_and_done(history: History) -> None:
    """The message does not come."""
    lost(history)
    history.recalls.append(Recall(KEY, Outcome.UNKNOWN))


def ack_cut_off(history: History) -> None:
    """It may have been done."""
    history.acks[:] = [replace(ACK, outcome=Outcome.UNKNOWN)]


def ack_cut_off_and_not_done(history: History) -> None:
    """It may not have been done: the message comes again and is settled."""
    history.acks[:] = [replace(ACK, outcome=Outcome.UNKNOWN), replace(ACK, began_ms=3010, ended_ms=3020)]
    history.deliveries.append(replace(DELIVERY, began_ms=3000, served_ms=3001, ended_ms=3005))


def again_after_its_time(history: History) -> None:
    """A lease that ended, and a later delivery that was settled."""
    history.acks[:] = [replace(ACK, began_ms=1560, ended_ms=1570)]
    history.deliveries.append(replace(DELIVERY, began_ms=1100, served_ms=1540, ended_ms=1550))


def lease_lost_in_a_kill(history: History) -> None:
    """A redelivery before its time, after a kill."""
    history.kills.append(1042)
    history.deliveries.append(replace(DELIVERY, began_ms=1043, served_ms=1044, ended_ms=1045))


def released(history: History) -> None:
    """A redelivery that its receiver asked for."""
    history.releases.append(Release("g", KEY, 1041))
    history.deliveries.append(replace(DELIVERY, began_ms=1042, served_ms=1043, ended_ms=1044))


def on_its_way_when_settled(history: History) -> None:
    """A poll that began after the ack's answer was on its way, and was answered before it: other messages' time."""
    history.deliveries[:] = [replace(DELIVERY, served_ms=1060)]


@pytest.mark.parametrize(
    "allowed",
    [
        good,
        sends_cut_off,
        in_time,
        taken_back,
        recall_cut_off,
        recall_cut_off_and_done,
        ack_cut_off,
        ack_cut_off_and_not_done,
        again_after_its_time,
        lease_lost_in_a_kill,
        released,
        on_its_way_when_settled,
    ],
)
def test_accepts_what_is_allowed(allowed: Callable[..., object]) -> None:
    """At least once, and no certainty about what was cut off."""
    history = good()
    if allowed is not good:
        allowed(history)
    assert check(history) == []
