"""The journal's entries: what goes in comes out, in bounded records, and a newer writer's are refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_store import journal
from rmq_store.journal import (
    Acked,
    Change,
    Cursors,
    Extended,
    GroupDrop,
    Grouped,
    GroupPut,
    HalfChecked,
    HalfEnded,
    HalfOutcomes,
    Leased,
    LitePlaces,
    LitesDropped,
    LitesPut,
    LiteSubscribed,
    QueueEnds,
    Started,
    StateEnd,
    TimerEnded,
    TimersFired,
    TopicDrop,
    TopicPut,
    UnknownJournal,
)

ENTRIES: list[Change] = [
    TopicPut("topic", -1, 8),
    QueueEnds("topic", [0, 1 << 40]),
    TopicDrop("topic"),
    GroupPut("group", 17, (1000, 5000), 5000, 7_200_000, 2.0),
    GroupDrop("group"),
    Cursors("group", "topic", [(0, 5), (7, 1 << 40)]),
    Leased("group", "topic", 1 << 41, 1, 2, "client", [(0, 9, [5, 1, 2], [1, 2, 1]), (1, 4, [], [])]),
    Leased("group", "topic", 1 << 41, 1, 2, "", [(0, 9, [5], [])], 1 << 54),
    Grouped("group", "topic", [(0, [5, 1, 2], [1, (1 << 55) - 1, 1]), (1, [4], [7])]),
    Acked("group", "topic", [(0, [1, 2, 3])]),
    Extended("group", "topic", 0, 5, 1 << 41, 1, 2, 3),
    TimerEnded(5, 1 << 41),
    TimersFired(1 << 41),
    HalfChecked(5, 1 << 41, 3),
    HalfEnded(5),
    HalfOutcomes(1 << 32, bytes(range(64))),
    LitesPut("topic", [("lite", 3, 7, 1 << 41), ("b", 0, 0, 1)]),
    LitesDropped([1, 1 << 54]),
    LitePlaces("group", "topic", [(1, 5), (1 << 54, 1 << 40)]),
    LiteSubscribed("group", "topic", "client", [1, 1 << 54], [2]),
    Started(7),
    StateEnd(1 << 30),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_each_entry_comes_back_as_it_was(entry: Change) -> None:
    """Type and values."""
    [body] = journal.encode([entry])
    assert journal.decode(body) == [entry]


def test_the_list_of_entries_above_is_complete() -> None:
    """A new kind of entry has to be added to it."""
    assert {type(entry) for entry in ENTRIES} == set(Change.__args__)


def test_the_bytes_of_an_entry_are_an_array_that_begins_with_its_tag() -> None:
    """What is on disk may not change under a store that exists."""
    [body] = journal.encode([TopicPut("topic", 1, 8), Started(7)])
    assert body[0] == 1
    assert msgspec.msgpack.decode(body[1:]) == [["t", "topic", 1, 8], ["s", 7]]


def test_a_lease_of_an_older_version_is_read() -> None:
    """It says nothing of who asked for it."""
    old = msgspec.msgpack.encode([["l", "group", "topic", 7, 1, 2, "", [[0, 9, [5], []]]]])
    assert journal.decode(b"\x01" + old) == [Leased("group", "topic", 7, 1, 2, "", [(0, 9, [5], [])], 0)]


@given(st.lists(st.sampled_from(ENTRIES), min_size=1, max_size=60), st.integers(1, 2000))
def test_many_entries_make_several_records_in_order(entries: list[Change], bytes_max: int) -> None:
    """None is larger than allowed, unless it holds a single entry."""
    bodies = journal.encode(entries, bytes_max)
    parts = [journal.decode(body) for body in bodies]
    assert [entry for part in parts for entry in part] == entries
    assert all(len(body) <= bytes_max or len(part) == 1 for body, part in zip(bodies, parts, strict=True))


@pytest.mark.parametrize("body", [b"", b"\x02\x90", b"\x01", b"\x01\x91\x92\xa1?\x00", b"\x01\x91\x91\xa1t"])
def test_what_this_version_does_not_know_is_refused(body: bytes) -> None:
    """Another version, another tag, another shape: its checksum was right, so it is a newer writer's."""
    with pytest.raises(UnknownJournal):
        journal.decode(body)
