"""Lines of message groups: their order, their place in a checkpoint, what they cost."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_store.journal import Acked, Cursors, Extended, Grouped, Leased, lease_part, steps
from rmq_store.leases import Leases
from rmq_store.ledger import Ledger, Open
from rmq_store.lines import KEY_BITS, Lines, key_of

KEYS = (1, 2, (1 << KEY_BITS) - 1)
OFFSETS = st.integers(0, 1200)


def _in_line(lines: Lines) -> dict[int, list[int]]:
    return {key: [lines.at(key, n) for n in range(lines.length(key))] for key in lines.groups()}


@given(st.lists(st.tuples(st.booleans(), OFFSETS, st.sampled_from(KEYS)), max_size=80), OFFSETS)
def test_lines_hold_what_was_added_and_not_removed_in_order(steps: list[tuple[bool, int, int]], since: int) -> None:
    """Whatever the order of adding and removing; a checkpoint's chunks make the same lines."""
    lines, wanted = Lines(), dict[int, int]()
    for adds, offset, key in steps:
        if adds:
            assert lines.add(offset, key) is (offset not in wanted)
            wanted.setdefault(offset, key)
        else:
            lines.remove(offset)
            wanted.pop(offset, None)
    copy = Lines()
    for chunk in lines.chunks():
        packed = lines.packed(chunk)
        assert packed is not None
        copy.unpack(chunk, *packed)
    for found in (lines, copy):
        assert sorted(found) == sorted(wanted)
        assert _in_line(found) == {key: sorted(o for o in wanted if wanted[o] == key) for key in set(wanted.values())}
        assert {offset: found.key(offset) for offset in wanted} == wanted
        assert found.first() == min(wanted, default=None)
        assert sorted(found.since(since)) == sorted(offset for offset in wanted if offset >= since)
        for offset, key in wanted.items():
            assert list(found.behind(offset)) == sorted(o for o in wanted if wanted[o] == key and o > offset)


def test_what_is_not_in_line_has_no_place() -> None:
    """Neither key nor followers, nor a chunk in the checkpoint; a line ends behind its last message."""
    lines = Lines()
    assert (lines.key(5), list(lines.behind(5)), lines.packed(0), lines.length(1)) == (None, [], None, 0)
    lines.add(5, 1)
    with pytest.raises(IndexError):
        lines.at(1, 1)


def test_a_long_line_forgets_what_left_it() -> None:
    """At its front, where nearly all leave."""
    lines = Lines()
    for offset in range(1000):
        lines.add(offset, 1)
    for offset in range(990):
        lines.remove(offset)
        assert (lines.at(1, 0), lines.length(1)) == (offset + 1, 999 - offset)
    lines.remove(995)
    assert _in_line(lines) == {1: [990, 991, 992, 993, 994, 996, 997, 998, 999]}


def test_early_acks_are_saved_and_go_with_their_message() -> None:
    """Each with the sequence of the delivery that was acked."""
    lines, copy = Lines(), Lines()
    lines.add(5, 1)
    lines.early[5] = 77
    packed = lines.packed(0)
    assert packed is not None
    copy.unpack(0, *packed)
    assert copy.early == {5: 77}
    copy.remove(5)
    assert copy.early == {}


def _parked(groups: int, each: int) -> Leases:
    """One of each group leased, `each` others of it behind."""
    leases = Leases()
    rows = list(range(groups * (each + 1)))
    for at in range(0, len(rows), 500):
        part = rows[at : at + 500]
        leases.apply_grouped(Grouped("g", "t", [(0, steps(part), [1 + (n % groups << 40) for n in part])]))
    held = lease_part(0, len(rows), [(n, 1) for n in range(groups)])
    leases.apply_leased(Leased("g", "t", 7, 1, 2, "", [held]))
    return leases


@pytest.mark.parametrize(("groups", "each"), [(1, 25_000), (250, 100), (2_500, 10)])
def test_a_million_parked_messages_take_at_most_a_hundred_megabytes(groups: int, each: int) -> None:
    """A fortieth of them stands for all. Open messages, one of each group, are told elsewhere and allowed for."""
    tracemalloc.start()
    try:
        leases = _parked(groups, each)
        assert tracemalloc.get_traced_memory()[0] < 2_500_000 + 500 * groups
    finally:
        tracemalloc.stop()
    assert leases.parked_count == 25_000


def test_early_acks_behind_a_parked_message_count_when_that_is_settled() -> None:
    """Deliveries were in lost bytes, and a filter passes over the parked one: the line goes on behind them."""
    leases = Leases()
    leases.apply_grouped(Grouped("g", "t", [(0, [0, 1, 1], [1, 1, 1])]))
    ledger = leases.subscription("g", "t").ledger(0)
    leases.reopen(ledger, [(1, 1)], 3)
    leases.apply_acked(Acked("g", "t", [(0, [1])]))
    leases.apply_acked(Acked("g", "t", [(0, [0])]))
    assert ledger.lines is not None
    assert (_in_line(ledger.lines), ledger.lines.early, leases.open_count) == ({1: [2]}, {}, 0)
    assert list(ledger.subscription.lines) == [(ledger, 1)]


def test_a_cursor_that_goes_back_passes_its_parked_messages_again() -> None:
    """What is open stays in line."""
    leases = _parked(2, 3)
    leases.apply_cursors(Cursors("g", "t", [(0, 4)]))
    ledger = leases.subscription("g", "t").ledger(0)
    assert (leases.parked_count, sorted(ledger.lines or ())) == (2, [0, 1, 2, 3])


def test_a_crash_between_a_line_and_its_cursor_leaves_no_double() -> None:
    """What joined a line and is not behind the cursor will be passed again."""
    leases = _parked(2, 3)
    leases.apply_grouped(Grouped("g", "t", [(0, [8, 1], [1, 99])]))
    leases.rearm(lambda lease: lease.due_ms)
    assert (leases.parked_count, leases.subscription("g", "t").ledger(0).key(8)) == (6, None)


def test_committed_is_the_oldest_message_that_is_open_or_parked() -> None:
    """A copy of the store for Apache begins there."""
    leases = _parked(1, 3)
    ledger = leases.subscription("g", "t").ledger(0)
    leases.settle(ledger, 0)
    assert ledger.committed() == 1


def test_a_carried_message_that_replay_had_not_met_is_parked_no_more() -> None:
    """Its place in line was repeated before it."""
    leases = Leases()
    leases.apply_grouped(Grouped("g", "t", [(0, [4], [1])]))
    ledger, retry = leases.subscription("g", "t").ledger(0), leases.subscription("g", "%RETRY%g").ledger(0)
    leases.move(ledger, 4, retry, 70, Open(retry, 70, 3, None))
    assert (leases.parked_count, leases.open_count, ledger.parked()) == (0, 1, [])
    ledger.next = 5
    leases.rearm(lambda lease: lease.due_ms)
    assert list(ledger.subscription.lines) == [(ledger, 1)]


def test_a_retry_topic_that_is_dropped_takes_its_messages_out_of_their_lines() -> None:
    """The next of the group may come."""
    leases = _parked(1, 1)
    ledger, retry = leases.subscription("g", "t").ledger(0), leases.subscription("g", "%RETRY%g").ledger(0)
    leases.move(ledger, 0, retry, 70)
    leases.drop_topic("%RETRY%g")
    assert (list(ledger.subscription.lines), leases.parked_count, leases.open_count) == ([(ledger, 1)], 1, 0)


@given(st.lists(st.tuples(st.sampled_from("gptlaFer"), st.integers(0, 9)), max_size=60))
def test_the_counts_agree_with_the_lines_whatever_happens(steps_: list[tuple[str, int]]) -> None:
    """An early ack is of an open message without a lease, never at the front; a free front is there to be taken."""
    leases = Leases()
    ledger = leases.subscription("g", "t").ledger(0)
    for number, (what, offset) in enumerate(steps_):
        _step(leases, ledger, what, offset, number)
    assert leases.parked_count == len(ledger.parked())
    assert leases.open_count == len(ledger.open)
    lines = ledger.lines or Lines()
    for offset in lines.early:
        assert ledger.open[offset].lease is None
    for key, (front, *_) in _in_line(lines).items():
        assert front not in lines.early
        found = ledger.open.get(front)
        assert (found is not None and found.lease is not None) or (ledger, key) in ledger.subscription.lines


def _step(leases: Leases, ledger: Ledger, what: str, offset: int, number: int) -> None:
    found = ledger.open.get(offset)
    front = ledger.key(offset) is not None and ledger.is_front(1 + offset % 2, offset)
    if what in "gp" and offset >= ledger.next:
        leases.apply_grouped(Grouped("g", "t", [(0, [offset], [1 + offset % 2])]))
        held = [offset] if ledger.is_front(1 + offset % 2, offset) else []
        leases.apply_leased(Leased("g", "t", number, 10, 50, "", [(0, offset + 1, held, [])]))
    elif what in "tl" and (front or found is not None):
        leases.apply_leased(Leased("g", "t", number, 10, 50, "", [(0, offset + 1, [offset], [])]))
    elif what == "e" and found is not None:
        leases.apply_extended(Extended("g", "t", 0, offset, number, 10, 60, 1))
    elif what == "a":
        leases.apply_acked(Acked("g", "t", [(0, [offset])]))
    elif what == "F":
        leases.settle(ledger, offset, final=True)
    elif what == "r" and found is not None and found.lease is not None:
        leases.release(found)


def test_keys_are_the_same_in_every_process_and_say_where_a_name_ends() -> None:
    """The journal holds them."""
    assert key_of("a") == 9143878480147233
    assert key_of("a", "b") != key_of("ab", "") != key_of("", "ab")
    assert all(0 < key_of(f"g{n}") < 1 << KEY_BITS for n in range(100))
