"""Histories made by hand: one that is as it must be, what may be planted in it, and what is allowed besides.

A plant or an allowance changes a good history; its docstring says what happened. Kinds of message that the broker does
not serve yet (message groups) are judged here only.
"""

from collections.abc import Callable
from dataclasses import replace

from tests.history.checker import (
    CHANGED,
    DEAD,
    DISORDER,
    DOUBLED,
    EARLY,
    HALF,
    LATE,
    LEASED,
    LOST,
    PHANTOM,
    RECALLED,
    UNDONE,
)
from tests.history.history import Ack, Bury, Change, Delivery, End, History, Message, Outcome, Recall, Send

KEY = "k1"
MESSAGE = Message(b"digest", tag="a", keys="x y")
SEND = Send(KEY, "t", MESSAGE, 1000, 1010, Outcome.OK)
DELIVERY = Delivery("g", KEY, MESSAGE, ("t", 0, 0), 1, 1, 1020, 1030, 1040, 500)
ACK = Ack("g", KEY, 1050, 1060, Outcome.OK)
LETTER = Delivery("auditor", KEY, MESSAGE, ("%DLQ%g", 0, 0), 9, 1, 1070, 1080, 1090, 500)
BURY = Bury("g", KEY, 1050, 1060, Outcome.OK)
CHANGE = Change("g", KEY, 1000, 1041, 1042, Outcome.OK)
Plant = Callable[[History], None]


def good() -> History:
    """One message sent, received and settled."""
    return History(("g",), sends=[SEND], deliveries=[DELIVERY], acks=[ACK])


def again(**changes: object) -> Delivery:
    """The same message, received again."""
    return replace(DELIVERY, call=2, attempt=2, **changes)  # type: ignore[arg-type]  # fields by name


def lost(history: History) -> None:
    """An acknowledged send that never comes."""
    history.deliveries.clear()
    history.acks.clear()


def lost_to_one_group(history: History) -> None:
    """One group has it, another has not."""
    history.groups = ("g", "other")


def seen_and_lost(history: History) -> None:
    """No answer came to its sender, but a group was shown it: it must be there for the other."""
    history.groups = ("g", "other")
    history.sends[:] = [replace(SEND, outcome=Outcome.UNKNOWN)]


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


def another_body(history: History) -> None:
    """Not the bytes that were sent."""
    history.deliveries[:] = [replace(DELIVERY, message=replace(MESSAGE, digest=b"other"))]


def another_tag(history: History) -> None:
    """Not the tag that was sent."""
    history.deliveries[:] = [replace(DELIVERY, message=replace(MESSAGE, tag="b"))]


def another_key(history: History) -> None:
    """Not the keys that were sent."""
    history.deliveries[:] = [replace(DELIVERY, message=replace(MESSAGE, keys="x"))]


def misplaced(history: History) -> None:
    """Another topic."""
    history.deliveries[:] = [replace(DELIVERY, place=("u", 0, 0))]


def stored_twice(history: History) -> None:
    """The same message at two offsets: each is delivered and settled."""
    history.deliveries.append(again(place=("t", 0, 1), served_ms=1045, began_ms=1044, ended_ms=2010))


def overwritten(history: History) -> None:
    """Two messages had the same offset: one took the other's place."""
    history.sends.append(replace(SEND, key="k2"))
    history.deliveries.append(replace(DELIVERY, key="k2"))
    history.acks.append(replace(ACK, key="k2"))


def undone(history: History) -> None:
    """Delivered again after its ack was answered, a kill in between or not."""
    history.kills.append(1500)
    history.deliveries.append(again(began_ms=2000, served_ms=2000, ended_ms=2010))


def undone_unseen(history: History) -> None:
    """Likewise, in an answer that was cut off: its receive began later than the ack was answered."""
    history.deliveries.append(again(began_ms=2000, served_ms=0, ended_ms=2010))


def given_twice(history: History) -> None:
    """Two consumers of a group had it at a time."""
    history.deliveries.append(again(began_ms=1035, served_ms=1045, ended_ms=1048))


def lease_forgotten(history: History) -> None:
    """A kill cannot have taken a lease that lies before something that was answered."""
    history.sends.append(replace(SEND, key="k2", began_ms=1041, ended_ms=1042))
    history.deliveries.append(replace(DELIVERY, key="k2", place=("t", 0, 1), began_ms=3000, served_ms=0, ended_ms=3010))
    history.acks[:] = [replace(ACK, began_ms=3100, ended_ms=3110), Ack("g", "k2", 3100, 3110, Outcome.OK)]
    history.kills.append(1043)
    history.deliveries.append(again(began_ms=1044, served_ms=1045, ended_ms=1046))


def extension_forgotten(history: History) -> None:
    """It was answered, and the message came at the lease's first end."""
    history.changes.append(CHANGE)
    history.acks[:] = [replace(ACK, began_ms=1640, ended_ms=1650)]
    history.deliveries.append(again(began_ms=1600, served_ms=1610, ended_ms=1620))


IN_ORDER = Message(b"digest", message_group="mg")
FIRST = replace(SEND, message=IN_ORDER)
SECOND = replace(SEND, key="k2", message=IN_ORDER, began_ms=1011, ended_ms=1015)
FIRST_OUT = replace(DELIVERY, message=IN_ORDER)
SECOND_OUT = replace(FIRST_OUT, key="k2", place=("t", 0, 1))


def ordered() -> History:
    """Two of a message group in one answer, in order."""
    acks = [ACK, replace(ACK, key="k2")]
    return History(("g",), sends=[FIRST, SECOND], deliveries=[FIRST_OUT, SECOND_OUT], acks=acks)


def reordered(history: History) -> None:
    """In one answer, the second first."""
    two = ordered()
    history.sends[:], history.acks[:] = two.sends, two.acks
    history.deliveries[:] = [SECOND_OUT, FIRST_OUT]


def overtaken(history: History) -> None:
    """The second came while the first was leased to another call."""
    two = ordered()
    history.sends[:], history.acks[:] = two.sends, two.acks
    history.deliveries[:] = [FIRST_OUT, replace(SECOND_OUT, call=2, ended_ms=1041)]


def fired_early(history: History) -> None:
    """A delayed message before its time."""
    history.sends[:] = [replace(SEND, deliver_ms=1031)]


def fired_late(history: History) -> None:
    """Long after it, though a group waited and nothing was killed."""
    history.late_ms_max = 10
    history.sends[:] = [replace(SEND, deliver_ms=1015)]


def timer_lost(history: History) -> None:
    """Never."""
    lost(history)
    history.sends[:] = [replace(SEND, deliver_ms=1031)]


def half_seen(history: History) -> None:
    """Before any outcome was given."""
    history.sends[:] = [replace(SEND, half=True)]
    history.ends.append(End(KEY, True, 1045, 1046, Outcome.OK))


def rolled_back_seen(history: History) -> None:
    """And it was taken back."""
    history.sends[:] = [replace(SEND, half=True)]
    history.ends.append(End(KEY, False, 1015, 1016, Outcome.OK))


def both_outcomes(history: History) -> None:
    """One message, committed and rolled back."""
    history.sends[:] = [replace(SEND, half=True)]
    history.ends += [End(KEY, commit, 1011, 1012, Outcome.OK) for commit in (True, False)]


def commit_lost(history: History) -> None:
    """A committed message never comes."""
    lost(history)
    history.sends[:] = [replace(SEND, half=True)]
    history.ends.append(End(KEY, True, 1015, 1016, Outcome.OK))


def recalled_and_seen(history: History) -> None:
    """It was taken back, and it came."""
    history.sends[:] = [replace(SEND, deliver_ms=1015)]
    history.recalls.append(Recall(KEY, 1011, 1012, Outcome.OK))


def given_up_too_soon(history: History) -> None:
    """A dead letter after one attempt of three, that nobody asked for."""
    history.attempts_max = 3
    history.acks.clear()
    history.deliveries.append(LETTER)


def given_up_though_settled(history: History) -> None:
    """A dead letter of a message that was acknowledged."""
    history.attempts_max = 1
    history.deliveries.append(LETTER)


def dead_letter_lost(history: History) -> None:
    """It was promised."""
    history.acks.clear()
    history.burials.append(BURY)


def dead_letter_twice(history: History) -> None:
    """Two of one message."""
    dead_letter_lost(history)
    history.deliveries += [
        LETTER,
        replace(LETTER, place=("%DLQ%g", 0, 1), began_ms=2000, served_ms=2001, ended_ms=2002),
    ]


def delivered_when_dead(history: History) -> None:
    """Its group gave it up, and got it again."""
    dead_letter_lost(history)
    history.deliveries += [LETTER, again(began_ms=2000, served_ms=2001, ended_ms=2002)]


def one_attempt_too_many(history: History) -> None:
    """No dead letter where one was due."""
    history.attempts_max = 1
    history.deliveries[:] = [replace(DELIVERY, attempt=2)]


def sends_cut_off(history: History) -> None:
    """Of two sends without an answer one was stored."""
    history.sends[:] = [replace(SEND, outcome=Outcome.UNKNOWN), replace(SEND, key="k2", outcome=Outcome.UNKNOWN)]


def ack_cut_off(history: History) -> None:
    """It may have been done."""
    history.acks[:] = [replace(ACK, outcome=Outcome.UNKNOWN)]


def ack_cut_off_and_not_done(history: History) -> None:
    """It may not have been done: the message comes again and is settled."""
    history.acks[:] = [replace(ACK, outcome=Outcome.UNKNOWN), replace(ACK, began_ms=3010, ended_ms=3020)]
    history.deliveries.append(again(began_ms=3000, served_ms=3001, ended_ms=3005))


def again_after_its_time(history: History) -> None:
    """A lease that ended, and a later delivery that was settled."""
    history.acks[:] = [replace(ACK, began_ms=1560, ended_ms=1570)]
    history.deliveries.append(again(began_ms=1100, served_ms=1540, ended_ms=1550))


def lease_lost_in_a_kill(history: History) -> None:
    """A redelivery before its time, after a kill, with nothing answered in between."""
    history.kills.append(1042)
    history.deliveries.append(again(began_ms=1043, served_ms=1044, ended_ms=1045))


def released(history: History) -> None:
    """A redelivery that its receiver asked for."""
    history.changes.append(replace(CHANGE, invisible_ms=0))
    history.deliveries.append(again(began_ms=1042, served_ms=1043, ended_ms=1044))


def perhaps_released(history: History) -> None:
    """Likewise, in a call that was cut off."""
    history.changes.append(replace(CHANGE, invisible_ms=0, outcome=Outcome.UNKNOWN))
    history.deliveries.append(again(began_ms=1042, served_ms=1043, ended_ms=1044))


def release_refused(history: History) -> None:
    """A refused change changes nothing: the lease ends when it did."""
    history.changes.append(replace(CHANGE, invisible_ms=9000, outcome=Outcome.FAILED))
    history.acks[:] = [replace(ACK, began_ms=1560, ended_ms=1570)]
    history.deliveries.append(again(began_ms=1100, served_ms=1540, ended_ms=1550))


def on_its_way_when_settled(history: History) -> None:
    """A poll that began before the ack's answer was on its way."""
    history.deliveries[:] = [replace(DELIVERY, served_ms=1060)]


def sent_at_once(history: History) -> None:
    """Two of a message group whose sends overlapped: any order."""
    two = ordered()
    history.sends[:], history.acks[:] = [FIRST, replace(SECOND, began_ms=1005)], two.acks
    history.deliveries[:] = [SECOND_OUT, FIRST_OUT]


def one_after_the_other(history: History) -> None:
    """The second when the first was settled."""
    two = ordered()
    history.sends[:], history.acks[:] = two.sends, two.acks
    history.acks[1:] = [replace(ACK, key="k2", began_ms=1080, ended_ms=1081)]
    history.deliveries[:] = [FIRST_OUT, replace(SECOND_OUT, call=2, began_ms=1061, served_ms=1070, ended_ms=1071)]


def fired_in_time(history: History) -> None:
    """At its time, or a little later."""
    history.late_ms_max = 20
    history.sends[:] = [replace(SEND, deliver_ms=1030)]


def late_after_a_kill(history: History) -> None:
    """Nobody was there to deliver it."""
    history.late_ms_max = 5
    history.kills.append(1018)
    history.sends[:] = [replace(SEND, deliver_ms=1015)]


def committed(history: History) -> None:
    """Seen once its commit had begun, answered or not."""
    history.sends[:] = [replace(SEND, half=True)]
    history.ends.append(End(KEY, True, 1015, 1100, Outcome.UNKNOWN))


def committed_again(history: History) -> None:
    """Its producer asked once more, in any order: the first time counts."""
    committed(history)
    history.ends += [End(KEY, True, 2000, 2001, Outcome.OK), End(KEY, True, 1016, 1017, Outcome.OK)]


def rolled_back(history: History) -> None:
    """Never seen."""
    lost(history)
    history.sends[:] = [replace(SEND, half=True)]
    history.ends.append(End(KEY, False, 1015, 1016, Outcome.OK))


def recalled(history: History) -> None:
    """Never seen."""
    lost(history)
    history.sends[:] = [replace(SEND, deliver_ms=9000)]
    history.recalls.append(Recall(KEY, 1011, 1012, Outcome.OK))


def buried(history: History) -> None:
    """As its receiver asked."""
    dead_letter_lost(history)
    history.deliveries.append(LETTER)


def used_up(history: History) -> None:
    """All its attempts; one of them was lost with its answer."""
    history.attempts_max = 2
    history.acks.clear()
    history.cut_off.append(("g", "t"))
    history.deliveries.append(replace(LETTER, began_ms=2000, served_ms=2001, ended_ms=2002))


PLANTS: tuple[tuple[Plant, str], ...] = (
    (lost, LOST),
    (lost_to_one_group, LOST),
    (seen_and_lost, LOST),
    (vanished, LOST),
    (vanished_after_a_refused_ack, LOST),
    (phantom, PHANTOM),
    (refused_but_stored, PHANTOM),
    (another_body, CHANGED),
    (another_tag, CHANGED),
    (another_key, CHANGED),
    (misplaced, CHANGED),
    (stored_twice, DOUBLED),
    (overwritten, DOUBLED),
    (undone, UNDONE),
    (undone_unseen, UNDONE),
    (given_twice, LEASED),
    (lease_forgotten, LEASED),
    (extension_forgotten, LEASED),
    (reordered, DISORDER),
    (overtaken, DISORDER),
    (fired_early, EARLY),
    (fired_late, LATE),
    (timer_lost, LOST),
    (half_seen, HALF),
    (rolled_back_seen, HALF),
    (both_outcomes, HALF),
    (commit_lost, LOST),
    (recalled_and_seen, RECALLED),
    (given_up_too_soon, DEAD),
    (given_up_though_settled, DEAD),
    (dead_letter_lost, DEAD),
    (dead_letter_twice, DOUBLED),
    (delivered_when_dead, UNDONE),
    (one_attempt_too_many, DEAD),
)

ALLOWED: tuple[Plant, ...] = (
    sends_cut_off,
    ack_cut_off,
    ack_cut_off_and_not_done,
    again_after_its_time,
    lease_lost_in_a_kill,
    released,
    perhaps_released,
    release_refused,
    on_its_way_when_settled,
    sent_at_once,
    one_after_the_other,
    fired_in_time,
    late_after_a_kill,
    committed,
    committed_again,
    rolled_back,
    recalled,
    buried,
    used_up,
)
