"""The key index does no more at once than it may, and nothing on the way of a send."""

import pytest

from rmq_store import keyindex
from rmq_store.flush import Mode
from rmq_store.keyindex import SLICE_UNITS
from tests.store.keyrig import find, opened, properties, put_many, start_find
from tests.store.support import Rig


def counted(rig: Rig) -> tuple[list[int], list[int]]:
    """Costs of each slice's pieces in all, and the largest piece of each."""
    index = rig.store.keys
    run, piece = index._run, index._piece
    sums: list[int] = []
    largest: list[int] = []

    def counting_run() -> None:
        sums.append(0)
        largest.append(0)
        run()

    def counting_piece() -> int:
        cost = piece()
        sums[-1] += cost
        largest[-1] = max(largest[-1], cost)
        return cost

    index._run, index._piece = counting_run, counting_piece  # type: ignore[method-assign]  # to count
    return sums, largest


def test_no_slice_does_more_than_it_may() -> None:
    """Not where one message has thousands of keys, nor where one key has thousands of messages."""
    with opened(None, mode=Mode.MEMORY, segment_bytes=1 << 20) as rig:
        for number in range(2000):
            rig.send("t", properties=properties(f"m{number}", "all"))
        rig.send("t", properties=properties("many", " ".join(f"{number:x}" for number in range(3000))))
        rig.turn()
        sums, largest = counted(rig)
        assert len(find(rig, "all", limit=1500)) == 1500
        assert find(rig, "bb7") == ["many"]
        assert len(sums) > 10
        assert max(largest) <= SLICE_UNITS // 2
        assert max(sums) < SLICE_UNITS + max(largest)


def test_others_get_their_turn_between_slices() -> None:
    """One slice a turn of the loop."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 200)
        sums, _ = counted(rig)
        search = start_find(rig, "all")
        turns = 0
        while not search.done():
            rig.turn()
            turns += 1
        assert len(sums) <= turns + 1


def test_a_send_does_no_work_for_the_index() -> None:
    """And none is done while sends go on; 200 ms after the last one it is."""
    with opened(None, mode=Mode.MEMORY) as rig:
        index = rig.store.keys
        put_many(rig, 10)
        index._run()  # the timer's time has come, but something was appended
        assert index._table is None
        index._run()
        assert index._table is not None
        rig.until(lambda: index._reached() == rig.store.log.end)


def test_it_goes_on_beside_other_work_once_much_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a search would have to read it all."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 10)
        monkeypatch.setattr(keyindex, "BEHIND_BYTES_MAX", 20_000)
        rig.store.keys._run()
        assert rig.store.log.end - rig.store.keys._reached() <= 20_000


def test_idle_it_waits_for_nothing() -> None:
    """No timer where all is done."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 3)
        rig.until(lambda: rig.store.keys._timer is None)
        assert rig.store.keys._reached() == rig.store.log.end
