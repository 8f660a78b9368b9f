"""Who reads which lite topics, as a broker knows it, and how that is judged after a crash: it was so at some moment."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from rmq_store.lines import key_of
from rmq_store.lites import Lites

T = TypeVar("T")


class Reading(NamedTuple):
    """Which lite topics there are, who subscribes which, and in which each group has a place."""

    there: set[str]
    subscribed: set[tuple[str, str, str]]  # group, client, lite topic
    known: set[tuple[str, str]]  # group, lite topic


def reading(lites: Lites, topic: str, names: Iterable[str]) -> Reading:
    """Of one parent topic. `names`: of all lite topics that there may be."""
    name_of = {key_of(topic, lite): lite for lite in names}
    found = Reading({lite.name for lite in lites}, set(), set())
    for group in lites.of_topic(topic):
        found.known.update((group.group, name_of[key]) for key in group.places)
        for client, keys in group.clients.items():
            found.subscribed.update((group.group, client, name_of[key]) for key in keys)
    return found


def was(found: set[T], moments: Sequence[set[T]]) -> bool:
    """Each of them is there, or is not, as at some of these moments."""
    return moments[0].intersection(*moments) <= found <= moments[0].union(*moments)
