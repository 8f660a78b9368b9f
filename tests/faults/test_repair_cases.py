"""Single cases of damage and repair, each with a store of a few messages."""

import errno
from pathlib import Path

import pytest

from rmq_store import checkpoint, storeformat
from rmq_store.disk import RealDisk
from rmq_store.errors import StoreError
from rmq_store.journal import TopicDrop
from rmq_store.queuesums import BLOCK, FILE_ENTRIES, QueueSums
from rmq_store.repair import Plan, survey
from tests.faults import rot
from tests.faults.rot import Damage
from tests.sim.faults import WRITE, Fault, FaultDisk
from tests.store.support import SEGMENT_BYTES, Rig

LOG = f"commitlog/{0:020d}"


@pytest.mark.parametrize("repaired", [False, True])
def test_the_offset_of_a_damaged_message_is_not_given_again(tmp_path: Path, repaired: bool) -> None:
    """A group has passed it: the next message would be hidden from that group, before a repair and after it."""
    rig = Rig(tmp_path)
    rig.send("t", body=b"first")
    rig.send("t", body=b"second")
    rig.turn()
    rig.take("g", "t", 2)
    rig.ack("g", "t", 0, 0, 1)
    rig.turn()
    (entry,) = rig.store.state.topics["t"].queues[0].read(1, 1)
    rig.crash()
    rot.inflict(tmp_path, [Damage(LOG, entry.position + 95, b"\xff")])
    if repaired:
        survey(tmp_path).carry_out()
    rig = Rig(tmp_path)
    assert len(rig.store.report.damaged) == (0 if repaired else 1)
    assert rig.send("t", body=b"third") == 2
    rig.turn()
    [ledger] = rig.take("g", "t", 1)
    assert sorted(ledger.open) == [2]
    rig.close()


def test_a_lost_lease_brings_its_messages_back_and_an_ack_settles_them(tmp_path: Path) -> None:
    """Those that were acknowledged before the next lease stay so; the others come again."""
    rig = Rig(tmp_path)
    for number in range(6):
        rig.send("t", body=b"%d" % number)
    rig.turn()
    rig.take("g", "t", 1)
    rig.turn()
    start = rig.store.log.end
    rig.take("g", "t", 3)
    rig.turn()
    end = rig.store.log.end
    rig.ack("g", "t", 0, 2)
    rig.turn()
    rig.take("g", "t", 1)
    rig.turn()
    rig.crash()
    rot.inflict(tmp_path, [Damage(LOG, start + 100, b"\xff\xff")])
    rig = Rig(tmp_path)
    assert rig.store.report.damaged == [(start, end)]
    ledger = rig.store.state.leases.subscription("g", "t").ledger(0)
    assert {offset: found.lease is None for offset, found in ledger.open.items()} == {
        0: False, 1: True, 3: True, 4: False
    }  # fmt: skip
    assert (ledger.next, ledger.find(2)) == (5, None)
    rig.close()


def test_places_of_topics_that_are_gone_are_in_no_doubt(tmp_path: Path) -> None:
    """Nor is a cursor that was set behind the damage lost."""
    rig = Rig(tmp_path)
    rig.send("t")
    rig.send("gone")
    rig.turn()
    position = rig.store.log.end
    rig.send("t")
    rig.turn()
    rig.take("g", "gone", 1)
    rig.ack("g", "gone", 0, 0)
    rig.store.apply(TopicDrop("gone"))
    rig.turn()
    rig.take("g", "t", 2)
    rig.turn()
    rig.crash()
    rot.inflict(tmp_path, [Damage(LOG, position + 40, b"\xff")])
    rig = Rig(tmp_path)
    assert set(rig.store.state.topics) == {"t"}
    assert sorted(rig.store.state.leases.subscription("g", "t").ledger(0).open) == [0, 1]
    rig.close()


def test_what_cannot_be_kept_is_cut_off_all_the_same(tmp_path: Path) -> None:
    """A full disk: said in the log, and the server starts."""
    rig = Rig(tmp_path)
    rig.send("t")
    rig.turn()
    end = rig.store.log.end
    rig.crash()
    rot.inflict(tmp_path, [Damage(LOG, end + 5, b"unfinished")])
    disk = FaultDisk(RealDisk(tmp_path), Fault(WRITE, 1, errno.ENOSPC, half=False))
    with rot.logged() as lines:
        rig = Rig(tmp_path, disk)
    assert f"cut off behind the log's end at {end}: 15 bytes of an unfinished record, kept in nowhere" in lines[-1]
    rig.crash()


def test_the_log_that_a_checkpoint_knew_is_missed(tmp_path: Path) -> None:
    """Its last record is zeros: said, and what is left is served."""
    rig = Rig(tmp_path)
    rig.send("t", body=b"kept")
    rig.turn()
    end = rig.store.log.end
    rig.send("t", body=b"lost")
    rig.close()
    rot.inflict(tmp_path, [Damage(LOG, end, bytes(SEGMENT_BYTES - end))])
    with rot.logged() as lines:
        rig = Rig(tmp_path)
    assert any(f"it ends at {end}, and went on to " in line for line in lines)
    assert rig.bodies("t") == [b"kept"]
    rig.close()


# -- survey ------------------------------------------------------------------------------------------------------------


def store(root: Path) -> Plan:
    """Closed, with a checkpoint; its survey is empty."""
    rig = Rig(root)
    for number in range(4):
        rig.send("t", body=b"%d" % number)
    rig.close()
    assert survey(root).steps == []
    return survey(root)


def test_what_is_derived_is_deleted_or_made_anew(tmp_path: Path) -> None:
    """Checkpoint, key file, `rmq/format`; entries of a queue are the server's to mend."""
    plan = store(tmp_path)
    queue = next((tmp_path / "consumequeue" / "t" / "0").iterdir())
    queue.unlink()
    (tmp_path / "rmq" / "keys").mkdir()
    (tmp_path / "rmq" / "keys" / f"{0:020d}").write_bytes(b"no keys")
    assert {(step.action, step.path.split("/")[1]) for step in survey(tmp_path).steps} == {
        ("mend", "t"),
        ("delete", "keys"),
    }
    (tmp_path / "rmq" / "format").write_text("1 65537 0 00000000\n")
    data = tmp_path / "rmq" / "checkpoint" / "data.mdb"
    data.write_bytes(data.read_bytes()[:9000])
    plan = survey(tmp_path)
    assert {step.action for step in plan.steps} == {"delete", "rewrite"}
    plan.carry_out()
    assert survey(tmp_path).steps == []
    assert storeformat.parse((tmp_path / "rmq" / "format").read_text()).segment_bytes == SEGMENT_BYTES
    assert checkpoint.read(tmp_path / "rmq" / "checkpoint") is None
    rig = Rig(tmp_path)
    assert rig.bodies("t") == [b"0", b"1", b"2", b"3"]
    rig.close()


def test_names_that_fit_no_length_are_refused(tmp_path: Path) -> None:
    """A repair does not guess."""
    store(tmp_path)
    (tmp_path / "commitlog" / f"{SEGMENT_BYTES + 5:020d}").write_bytes(bytes(SEGMENT_BYTES))
    with pytest.raises(StoreError, match="do not fit 65536 bytes each"):
        survey(tmp_path)


def test_an_empty_last_file_is_no_damage(tmp_path: Path) -> None:
    """A crash fell between its making and its length; the start deletes it."""
    store(tmp_path)
    (tmp_path / "commitlog" / f"{SEGMENT_BYTES:020d}").touch()
    assert survey(tmp_path).steps == []


def test_the_only_segment_cut_off_is_refused_and_lengthened(tmp_path: Path) -> None:
    """`rmq/format` knows how long it was: a shorter log would refuse every larger message."""
    store(tmp_path)
    path = tmp_path / LOG
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(StoreError, match=r"different sizes \[400, 65536\].*rmq store repair"):
        Rig(tmp_path)
    plan = survey(tmp_path)
    assert [step.action for step in plan.steps][:1] == ["lengthen"]
    assert plan.lost
    plan.carry_out()
    rig = Rig(tmp_path)
    assert rig.bodies("t")[:1] == [b"0"]
    rig.close()


def test_the_last_record_damaged_is_replaced_too(tmp_path: Path) -> None:
    """All its bytes were written."""
    rig = Rig(tmp_path)
    rig.send("t", body=b"a" * 400)
    rig.turn()
    rig.crash()
    position = (tmp_path / LOG).read_bytes().index(b"aaaa")
    rot.inflict(tmp_path, [Damage(LOG, position, b"b")])
    plan = survey(tmp_path)
    assert [step.action for step in plan.steps] == ["replace"]
    plan.carry_out()
    assert survey(tmp_path).steps == []


def test_apaches_records_are_counted(tmp_path: Path) -> None:
    """Their topics and properties cannot be checked."""
    rig = Rig(tmp_path)
    rig.send("t", body=b"theirs")
    rig.turn()
    (entry,) = rig.store.state.topics["t"].queues[0].read(0, 1)
    rig.crash()
    path = tmp_path / LOG
    data = bytearray(path.read_bytes())
    properties = b"A\x01b\x02"
    front = data[entry.position + 4 : entry.position + entry.size - 22]  # without size, properties and their length
    rest = bytes(front) + len(properties).to_bytes(2, "big") + properties
    whole = (len(rest) + 4).to_bytes(4, "big") + rest
    data[entry.position :] = whole.ljust(len(data) - entry.position, b"\0")
    path.write_bytes(data)
    (tmp_path / "rmq" / "format").unlink()
    assert survey(tmp_path).body_only == 1
    rig = Rig(tmp_path)
    assert rig.bodies("t") == [b"theirs"]
    rig.close()


# -- checksums of queue files ------------------------------------------------------------------------------------------


def test_sums_go_on_over_blocks_and_files() -> None:
    """However the entries come; dropped files are told, a gap begins anew."""
    sums, other = QueueSums(), QueueSums()
    first = FILE_ENTRIES - 2 * BLOCK - 7
    data = bytes(range(200)) * 20 * 8
    count = len(data) // 20
    sums.extend(first, data)
    for number in range(0, count, 3):
        other.extend(first + number, data[number * 20 : (number + 3) * 20])
    assert sums.end == first + count
    saved = sums.take_changed(everything=False)
    assert saved == other.take_changed(everything=True)
    assert [number for number, _ in saved] == [0, 1]
    assert sums.take_changed(everything=False) == []
    sums.drop_before(FILE_ENTRIES)
    assert sums.take_changed(everything=False) == [(0, None)]
    sums.extend(5_000_000, data)
    assert [(number, value is None) for number, value in sums.take_changed(everything=False)] == [
        (16, False),
        (1, True),
    ]
