"""Who has which message: transitions of places and leases, and what they cost."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from rmq_store.journal import Acked, Cursors, Extended, Leased
from rmq_store.leases import Leases
from rmq_store.ledger import Lease, Ledger, Open


def _leased(
    *offsets: int, sequence: int = 100, due_ms: int = 50, client: str = "", attempts: tuple[int, ...] = ()
) -> Leased:
    steps = [offset - before for before, offset in zip((0, *offsets), offsets, strict=False)]
    return Leased("g", "t", sequence, 10, due_ms, client, [(0, max(offsets) + 1, steps, list(attempts))])


def _ledger(leases: Leases, topic: str = "t") -> Ledger:
    return leases.subscription("g", topic).ledger(0)


def test_a_receive_moves_the_cursor_and_opens_its_messages() -> None:
    """Offsets come as steps; attempts are 1 unless told."""
    leases = Leases()
    lease = leases.apply_leased(_leased(3, 4, 9, attempts=(1, 2, 3)))
    ledger = _ledger(leases)
    assert (ledger.next, {o: f.attempt for o, f in ledger.open.items()}) == (10, {3: 1, 4: 2, 9: 3})
    assert ([f.offset for f in lease.held], lease.live, leases.open_count) == ([3, 4, 9], 3, 3)
    assert list(leases.wheel.pop_due(50, 9)) == [lease.key]


def test_an_ack_settles_and_the_last_one_ends_the_lease() -> None:
    """A settled offset is below next and not open; acking again changes nothing."""
    leases = Leases()
    leases.apply_leased(_leased(0, 1, client="c"))
    leases.apply_acked(Acked("g", "t", [(0, [0, 0])]))
    assert (leases.open_count, len(leases.leases), list(leases.by_client)) == (1, 1, [("g", "c")])
    leases.apply_acked(Acked("g", "t", [(0, [1, 0])]))
    ledger = _ledger(leases)
    assert (leases.open_count, leases.leases, leases.by_client, ledger.next, ledger.committed()) == (0, {}, {}, 2, 2)


def test_the_ack_of_a_message_whose_delivery_is_unknown_moves_no_cursor() -> None:
    """The lease's record may be damaged: to go on behind the acked one would lose what lies before it."""
    leases = Leases()
    leases.apply_acked(Acked("g", "t", [(0, [7])]))
    assert (_ledger(leases).next, leases.open_count) == (0, 0)


def test_committed_is_the_oldest_open_offset() -> None:
    """Acks above it are kept."""
    leases = Leases()
    leases.apply_leased(_leased(0, 1, 2))
    leases.apply_acked(Acked("g", "t", [(0, [0, 2])]))
    assert _ledger(leases).committed() == 1


def test_an_extension_takes_one_message_to_a_lease_of_its_own() -> None:
    """The others stay; the old sequence is no longer its own."""
    leases = Leases()
    first = leases.apply_leased(_leased(0, 1))
    leases.apply_extended(Extended("g", "t", 0, 1, 101, 20, 90, 4))
    found = _ledger(leases).open[1]
    second = found.lease
    assert second is not None
    assert (found.attempt, first.live, second.live, second.sequence) == (4, 1, 1, 101)
    assert [held.offset for held in second.held] == [1]
    for offset in (1, 7):  # nobody has it any more; of one that nobody knows nothing is said
        leases.apply_extended(Extended("g", "t", 0, offset, 0, 0, 0, 4))
    assert (found.lease, second.live, sorted(_ledger(leases).open)) == (None, 0, [0, 1])


def test_a_released_message_is_ready_for_the_subscription_that_had_it() -> None:
    """And the broker is told to look."""
    leases = Leases()
    lease = leases.apply_leased(_leased(0, 1))
    for found in lease.held:
        leases.release(found)
    subscription = leases.subscription("g", "t")
    assert ([f.offset for f in subscription.ready], list(leases.woken), leases.leases) == ([0, 1], [subscription], {})
    again = leases.apply_leased(_leased(0, sequence=101, attempts=(2,)))
    assert (leases.open_count, again.held[0].attempt) == (2, 2)


def test_a_carried_message_keeps_its_lease_and_its_name() -> None:
    """Acked, extended and released under the name of its first delivery, wherever it lies."""
    leases = Leases()
    lease = leases.apply_leased(_leased(0, 1, 2))
    ledger, retry, second = _ledger(leases), _ledger(leases, "%RETRY%g"), _ledger(leases, "elsewhere")
    for offset in (0, 1, 2):
        leases.move(ledger, offset, retry, offset + 70)
    assert (ledger.open, sorted(retry.open), sorted(ledger.moved), retry.next) == ({}, [70, 71, 72], [0, 1, 2], 73)
    assert (lease.live, leases.open_count) == (3, 3)
    leases.move(ledger, 1, second, 5)
    assert (sorted(retry.open), list(second.open), second.origins) == ([70, 72], [5], {5: (ledger, 1)})
    leases.release(second.open[5])
    assert [f.offset for f in leases.subscription("g", "t").ready] == [5]
    leases.apply_acked(Acked("g", "t", [(0, [0, 1, 2])]))
    assert (leases.open_count, ledger.moved, retry.origins, second.origins, leases.leases) == (0, {}, {}, {}, {})


def test_a_carried_message_whose_lease_went_with_its_segment_is_ready() -> None:
    """A replay of what retention left meets it for the first time."""
    leases = Leases()
    ledger, retry = _ledger(leases), _ledger(leases, "%RETRY%g")
    leases.move(ledger, 4, retry, 70, Open(retry, 70, 3, None))
    assert (ledger.moved[4].attempt, leases.open_count) == (3, 1)
    leases.rearm(lambda lease: lease.due_ms)
    assert [f.offset for f in leases.subscription("g", "t").ready] == [70]


def test_a_group_goes_with_all_its_places_and_leases() -> None:
    """Carried messages included, and no other group's."""
    leases = Leases()
    leases.apply_leased(_leased(0, 1, client="c"))
    leases.move(_ledger(leases), 0, _ledger(leases, "%RETRY%g"), 70)
    leases.apply_cursors(Cursors("h", "t", [(0, 5)]))
    leases.drop_group("g")
    assert (list(leases.subscriptions), leases.open_count, leases.leases, leases.by_client) == ([("h", "t")], 0, {}, {})
    assert (list(leases.by_topic), [ledger.subscription.group for ledger in leases.dirty]) == (["t"], ["h"])


def test_a_topic_goes_with_what_was_carried_out_of_it() -> None:
    """Its messages in retry topics stand for it no more."""
    leases = Leases()
    leases.apply_leased(_leased(0, 1))
    retry = _ledger(leases, "%RETRY%g")
    leases.move(_ledger(leases), 0, retry, 70)
    leases.drop_topic("t")
    assert (leases.open_count, retry.open, retry.origins, leases.leases) == (0, {}, {}, {})


def test_leases_with_the_same_sequence_are_told_apart() -> None:
    """One receive's leases part when some of its messages are carried forward."""
    leases = Leases()
    a = leases.apply_leased(_leased(0))
    b = leases.apply_leased(_leased(1))
    assert a.key != b.key
    assert sorted(leases.wheel.pop_due(99, 9)) == sorted((a.key, b.key))
    assert leases.leases == {a.key: a, b.key: b}


def test_timers_of_ended_leases_do_not_pile_up() -> None:
    """A consumer that asks for hours and acks at once leaves nothing behind."""
    leases = Leases()
    for n in range(20_000):
        leases.apply_leased(_leased(n, sequence=n, due_ms=43_200_000 + n))
        leases.apply_acked(Acked("g", "t", [(0, [n])]))
    assert len(leases.wheel) < 11_000


def test_rebuilding_the_wheel_loses_no_timer() -> None:
    """Leases that live fire at their due time, postponed ones at the new one."""
    leases = Leases()
    kept: list[Lease] = [leases.apply_leased(_leased(n, sequence=n, due_ms=1000 + n)) for n in range(100)]
    for round_ in range(200):
        for lease in kept:
            leases.postpone(lease, 5000 + round_)
    fired = list(leases.wheel.pop_due(1 << 40, 1 << 20))
    assert set(fired) == {lease.key for lease in kept}
    assert list(leases.wheel.pop_due(1 << 40, 1)) == []


@given(st.lists(st.tuples(st.sampled_from("tkaer"), st.integers(0, 12)), max_size=60))
def test_the_counts_agree_with_the_tables_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """Open messages, live leases, and who has them."""
    leases = Leases()
    ledger = _ledger(leases)
    for number, (what, offset) in enumerate(steps):
        found = ledger.open.get(offset)
        if what in "tk":
            leases.apply_leased(_leased(offset, offset + 1, sequence=number, client="c" if what == "k" else ""))
        elif what == "a":
            leases.apply_acked(Acked("g", "t", [(0, [offset])]))
        elif what == "e" and found is not None:
            leases.apply_extended(Extended("g", "t", 0, offset, number, 10, 60, 1))
        elif what == "r" and found is not None:
            leases.release(found)
    assert leases.open_count == len(ledger.open)
    held = [found.lease for found in ledger.open.values() if found.lease is not None]
    assert set(held) == set(leases.leases.values())
    assert all(lease.live == held.count(lease) for lease in leases.leases.values())
    renewed = {lease for leases_ in leases.by_client.values() for lease in leases_.values()}
    assert renewed == {lease for lease in held if lease.client}


def test_a_hundred_thousand_leases_of_one_message_take_at_most_fifty_megabytes() -> None:
    """Each at a millisecond of its own, timers included: the worst case. An eighth of them stands for all: the tables,
    whose size doubles at a time, are as full then.
    """
    leases = Leases()
    tracemalloc.start()
    try:
        for n in range(12_500):
            sequence, taken_ms, due_ms = (1 << 40) + n, 1_700_000_000_000 + n, 1_700_000_030_000 + n
            part: tuple[int, int, list[int], list[int]] = (n % 8, n // 8 + 1, [n // 8], [])
            leases.apply_leased(Leased("group", "topic", sequence, taken_ms, due_ms, "", [part]))
        assert tracemalloc.get_traced_memory()[0] < 50_000_000 / 8
    finally:
        tracemalloc.stop()
    assert (leases.open_count, len(leases.wheel)) == (12_500, 12_500)
