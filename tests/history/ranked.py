"""Histories made by hand, as handmade.py's: what may be planted in the order of priorities, and what is allowed."""

from dataclasses import replace

from tests.history.checker import OUTRANKED
from tests.history.handmade import ACK, DELIVERY, MESSAGE, SEND, Plant
from tests.history.history import History, Message

HIGH = replace(SEND, key="k2", message=Message(b"digest", priority=1))
HIGH_OUT = replace(DELIVERY, key="k2", message=HIGH.message, place=("t", 1, 0))


def outranked(history: History) -> None:
    """In one answer, the lower one first, and it was no turn of its."""
    history.priorities, history.lower_nth = 2, 3
    history.sends.append(HIGH)
    history.deliveries.append(HIGH_OUT)
    history.acks.append(replace(ACK, key="k2"))


def outranked_in_another_call(history: History) -> None:
    """The higher one was there, and came later."""
    outranked(history)
    history.deliveries[1] = replace(HIGH_OUT, call=2, began_ms=1041, served_ms=1042, ended_ms=1043)


def passed_by_a_younger_one(history: History) -> None:
    """Of the same priority: no turn allows that."""
    outranked(history)
    history.lower_nth = 2
    history.sends[:] = [replace(SEND, began_ms=1011, ended_ms=1015), replace(HIGH, message=MESSAGE)]
    history.deliveries[1] = replace(HIGH_OUT, message=MESSAGE, place=("t", 0, 1))


def its_turn(history: History) -> None:
    """A lower one in so many is no breach."""
    outranked(history)
    history.lower_nth = 2


def perhaps_in_a_lost_answer(history: History) -> None:
    """The higher one may have been leased to it."""
    outranked_in_another_call(history)
    history.cut_off.append(("g", "t"))


PLANTS: tuple[tuple[Plant, str], ...] = (
    (outranked, OUTRANKED),
    (outranked_in_another_call, OUTRANKED),
    (passed_by_a_younger_one, OUTRANKED),
)

ALLOWED: tuple[Plant, ...] = (its_turn, perhaps_in_a_lost_answer)
