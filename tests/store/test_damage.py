"""What is found damaged is counted by kind, and told once with what to do."""

from pathlib import Path

import pytest

from rmq_store.damage import Damage
from tests.store.support import Rig

ADVICE = "the store is damaged"


def advice(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines that say what to do."""
    return [record.getMessage() for record in caplog.records if ADVICE in record.getMessage()]


def write(root: Path, position: int, data: bytes) -> None:
    """Over what is in the first segment."""
    with (root / "commitlog" / f"{0:020d}").open("r+b") as file:
        file.seek(position)
        file.write(data)


def messages(root: Path, count: int) -> list[tuple[int, int]]:
    """A store that was killed with that many; position and size of each."""
    rig = Rig(root)
    for number in range(count):
        rig.send("t", 0, b"%d" % number)
    rig.turn()
    entries = [(entry.position, entry.size) for entry in rig.store.state.topics["t"].queues[0].read(0, count)]
    rig.crash()
    return entries


def test_the_first_damage_is_told_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """Once, with the commands for this store; none found is nothing to tell."""
    damage = Damage(Path("/data"))
    damage.add()
    assert advice(caplog) == []
    damage.add(messages=1)
    damage.add(ranges=2, entries=3)
    [line] = advice(caplog)
    assert "`rmq store check /data` says what is damaged, `rmq store repair /data` gives it up" in line
    assert (damage.ranges, damage.entries, damage.messages, damage.total) == (2, 3, 1, 6)


def test_a_replay_counts_what_it_passes_over_and_a_read_what_it_cannot_give(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two records before the start, one while it runs, read twice: advice comes once."""
    places = messages(tmp_path, 6)
    for number in (1, 3):
        write(tmp_path, places[number][0] + 50, b"x")
    rig = Rig(tmp_path)
    assert (rig.store.damage.ranges, rig.store.damage.messages) == (2, 0)
    write(tmp_path, places[4][0] + 50, b"x")
    for _ in range(2):
        assert rig.bodies("t") == [b"0", None, b"2", None, None, b"5"]
    assert (rig.store.damage.ranges, rig.store.damage.messages) == (2, 2)
    assert len(advice(caplog)) == 1
    rig.close()


def test_an_end_that_the_checkpoint_knew_of_and_that_is_gone_is_damage(tmp_path: Path) -> None:
    """The log was longer once: one range of it is missing."""
    position, size = messages(tmp_path, 3)[-1]
    Rig(tmp_path).close()
    write(tmp_path, position, bytes(size + 4096))
    rig = Rig(tmp_path)
    assert (rig.store.report.end, rig.store.report.damaged) == (position, [])
    assert rig.store.report.missing >= size
    assert rig.store.damage.ranges == 1
    rig.close()


def test_what_a_crash_left_unfinished_is_set_aside_and_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its bytes are counted; nobody is sent to repair a sound store."""
    position, size = messages(tmp_path, 3)[-1]
    write(tmp_path, position + 60, bytes(size + 4096))
    rig = Rig(tmp_path)
    assert rig.store.damage.set_aside_bytes == rig.store.report.cut_off > 0
    assert (rig.store.damage.total, advice(caplog)) == (0, [])
    rig.close()
