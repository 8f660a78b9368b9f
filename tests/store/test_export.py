"""An export is all that Apache needs, and leaves the store it is made from alone. Apache's say: tests/compat/."""

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rmq_store.commitlog import CommitLog
from rmq_store.disk import DirectoryLock, RealDisk
from rmq_store.errors import StoreError
from rmq_store.export import export
from rmq_store.journal import HalfEnded, TimerEnded
from rmq_store.record import Record
from rmq_store.segment import FOLDER
from rmq_store.state import Origin
from rmq_store.timers import DELIVER_MS
from rmq_store.timers import TOPIC as TIMERS
from tests.store.support import GROUP, SEGMENT_BYTES, Rig, log_bytes

CHECKS = "RMQ_SYS_TRANS_HALF_TOPIC@CID_RMQ_SYS_TRANS"


def files(root: Path) -> dict[str, bytes]:
    """Every file under a directory, by its path; without the lock files, which an export may touch."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def config(out: Path, name: str, table: str) -> dict[str, Any]:
    """One of the tables that Apache reads."""
    found: dict[str, Any] = json.loads((out / "config" / name).read_text())[table]
    return found


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Two segments; topic `a` with 3 messages in queue 1 of 2; of group `g` one is settled, one leased, one to come."""
    made = Rig(tmp_path / "data")
    made.store.apply(GROUP)
    made.topic("a", queues=2)
    made.roll()
    for _ in range(3):
        made.send("a", 1)
    made.turn()
    made.take("g", "a", 2)
    made.ack("g", "a", 1, 0)
    made.turn()
    return made


def test_the_log_is_the_same_byte_for_byte(rig: Rig, tmp_path: Path) -> None:
    """Up to its end, in files of the same names and lengths; all behind it is zero, and a spare segment is left out."""
    begin, data = log_bytes(rig.store)
    rig.close()
    report = export(tmp_path / "data", tmp_path / "out")
    segments = sorted((tmp_path / "out" / FOLDER).iterdir())
    assert [int(path.name) for path in segments] == list(range(begin, report.end, SEGMENT_BYTES))
    assert {path.stat().st_size for path in segments} == {SEGMENT_BYTES}
    copy = b"".join(path.read_bytes() for path in segments)
    assert copy[: len(data)] == data
    assert not any(copy[report.end - begin :])


def test_it_changes_nothing_in_the_store(rig: Rig, tmp_path: Path) -> None:
    """Also not where a kill -9 left it."""
    rig.crash()
    before = files(tmp_path / "data")
    export(tmp_path / "data", tmp_path / "out")
    assert files(tmp_path / "data") == before


def test_it_holds_the_log_and_three_tables_and_nothing_else(rig: Rig, tmp_path: Path) -> None:
    """No queue, no checkpoint, no `abort`: Apache takes it for a clean stop and builds what it needs from the log.

    Nor a place in the timer topic, where there never was a timer.
    """
    rig.close()
    export(tmp_path / "data", tmp_path / "out")
    others = {path for path in files(tmp_path / "out") if not path.startswith(FOLDER)}
    assert others == {"config/topics.json", "config/subscriptionGroup.json", "config/consumerOffset.json"}


def exported_timers(out: Path) -> list[tuple[int, str]]:
    """What Apache reads of the timer topic: first number and due time of each record, in order."""
    start, again = struct.unpack(">16xqq4064x", (out / "config" / "timercheck").read_bytes())
    assert start == again
    log = CommitLog(RealDisk(out), segment_bytes=SEGMENT_BYTES, reserve_bytes=SEGMENT_BYTES)
    found = [one for one in log.scan(log.begin) if isinstance(one, Record) and one.topic == TIMERS]
    log.close()
    assert [one.queue_offset for one in found] == list(range(found[0].queue_offset, found[-1].queue_offset + 1))
    waiting = [one for one in found if one.queue_offset >= start]
    return [(first_number(one), one.decode_properties()[DELIVER_MS]) for one in waiting]


def first_number(kept: Record) -> int:
    """What the timer goes by."""
    origin = Origin.parse(kept.decode_properties().get(Origin.PROPERTY, ""))
    return origin.offset if origin else kept.queue_offset


def test_of_timers_only_those_that_wait_are_left_to_apache(rig: Rig, tmp_path: Path) -> None:
    """It would deliver again what was delivered, and deliver what was recalled: it reads behind both."""
    for number in range(6):
        rig.delay(1000 + number)
    rig.fire(1, 1001, "a")
    rig.store.apply(TimerEnded(3, 1003))
    rig.turn()
    _, data = log_bytes(rig.store)
    rig.close()
    report = export(tmp_path / "data", tmp_path / "out")
    assert report.end > len(data)
    assert exported_timers(tmp_path / "out") == [(0, "1000"), (2, "1002"), (4, "1004"), (5, "1005")]
    copied = (tmp_path / "out" / FOLDER / f"{0:020d}").read_bytes()
    assert copied == data[:SEGMENT_BYTES]
    back = Rig(tmp_path / "out")
    assert [back.store.state.timers.waits(n, 1000 + n) for n in range(6)] == [True, False, True, False, True, True]
    back.close()


def test_timers_that_wait_behind_all_others_stay_where_they_are(rig: Rig, tmp_path: Path) -> None:
    """Nothing is added to the log."""
    for number in range(4):
        rig.delay(1000 + number)
    rig.fire(0, 1000, "a")
    rig.store.apply(TimerEnded(1, 1001))
    rig.close()
    export(tmp_path / "data", tmp_path / "out")
    assert exported_timers(tmp_path / "out") == [(2, "1002"), (3, "1003")]


def test_where_no_timer_waits_apache_reads_none(rig: Rig, tmp_path: Path) -> None:
    """Also not one that it would take for due; from the beginning where no record of any is left."""
    rig.delay(1000)
    rig.fire(0, 1000, "a")
    rig.turn()
    rig.crash()
    export(tmp_path / "data", tmp_path / "out")
    assert exported_timers(tmp_path / "out") == []
    rig = Rig(tmp_path / "data")
    rig.roll()
    rig.roll()
    rig.retain()
    assert rig.store.state.topics[TIMERS].queues[0].first_offset == 1
    rig.close()
    export(tmp_path / "data", tmp_path / "again")
    assert not any((tmp_path / "again" / "config" / "timercheck").read_bytes())


def test_topics_keep_their_queues_and_type(rig: Rig, tmp_path: Path) -> None:
    """In Apache's words."""
    rig.topic("mixed", kind=-1)
    rig.topic("unknown", kind=0)
    rig.close()
    export(tmp_path / "data", tmp_path / "out")
    topics = config(tmp_path / "out", "topics.json", "topicConfigTable")
    assert (topics["a"]["readQueueNums"], topics["a"]["writeQueueNums"], topics["a"]["perm"]) == (2, 2, 6)
    assert [topics[name]["attributes"] for name in ("a", "mixed", "unknown")] == [
        {"message.type": "NORMAL"},
        {"message.type": "MIXED"},
        {},
    ]


def test_groups_keep_their_retry_policy(rig: Rig, tmp_path: Path) -> None:
    """Apache counts retries, we count deliveries."""
    rig.store.apply(msgspec.structs.replace(GROUP, name="h", steps_ms=(), attempts_max=3))
    rig.close()
    export(tmp_path / "data", tmp_path / "out")
    groups = config(tmp_path / "out", "subscriptionGroup.json", "subscriptionGroupTable")
    assert (groups["g"]["retryMaxTimes"], groups["h"]["retryMaxTimes"]) == (16, 2)
    assert groups["g"]["groupRetryPolicy"] == {"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": [1000]}}
    assert groups["h"]["groupRetryPolicy"]["exponentialRetryPolicy"] == {
        "initial": 5000,
        "max": 7_200_000,
        "multiplier": 2,
    }


def test_a_group_goes_on_at_its_oldest_unsettled_message(rig: Rig, tmp_path: Path) -> None:
    """Of three messages one is settled and one leased."""
    rig.close()
    export(tmp_path / "data", tmp_path / "out")
    assert config(tmp_path / "out", "consumerOffset.json", "offsetTable") == {"a@g": {"0": 0, "1": 1}}


def test_a_group_starts_over_in_a_queue_whose_messages_are_all_gone(rig: Rig, tmp_path: Path) -> None:
    """Apache counts such a queue from 0 again: an offset from before would hide new messages."""
    rig.ack("g", "a", 1, 1, 2)
    rig.turn()
    rig.roll()
    rig.roll()
    rig.retain()
    assert rig.store.state.topics["a"].queues[1].first_offset == 3
    rig.close()
    export(tmp_path / "data", tmp_path / "out")
    assert config(tmp_path / "out", "consumerOffset.json", "offsetTable")["a@g"] == {"0": 0, "1": 0}


def test_apache_s_check_begins_at_the_oldest_open_transaction(rig: Rig, tmp_path: Path) -> None:
    """It asks about what ended behind that one once more, and about nothing before."""
    for _ in range(3):
        rig.begin(1)
    rig.commit(0, "a")
    rig.store.apply(HalfEnded(2))
    rig.close()
    export(tmp_path / "data", tmp_path / "out")
    assert config(tmp_path / "out", "consumerOffset.json", "offsetTable")[CHECKS] == {"0": 1}


def test_apache_checks_nothing_where_all_transactions_have_ended(rig: Rig, tmp_path: Path) -> None:
    """Its check begins behind the last half message."""
    for number in range(2):
        rig.begin(1)
        rig.commit(number, "a")
    rig.close()
    export(tmp_path / "data", tmp_path / "out")
    assert config(tmp_path / "out", "consumerOffset.json", "offsetTable")[CHECKS] == {"0": 2}


def test_a_damaged_log_is_refused(rig: Rig, tmp_path: Path) -> None:
    """Apache would end the log at the damage, and lose what lies behind."""
    _, data = log_bytes(rig.store)
    rig.close()
    first = min((tmp_path / "data" / FOLDER).iterdir())
    broken = bytearray(first.read_bytes())
    broken[data.index(b"filler") - 10] ^= 0xFF
    first.write_bytes(broken)
    with pytest.raises(StoreError, match="damaged"):
        export(tmp_path / "data", tmp_path / "out")


def test_a_running_store_is_refused(rig: Rig, tmp_path: Path) -> None:
    """Half a turn might be copied."""
    rig.close()
    lock = DirectoryLock(tmp_path / "data")
    with pytest.raises(StoreError, match="in use"):
        export(tmp_path / "data", tmp_path / "out")
    lock.release()


def test_only_a_store_goes_in_and_only_an_empty_directory_comes_out(rig: Rig, tmp_path: Path) -> None:
    """Nothing is written then."""
    rig.close()
    with pytest.raises(StoreError, match="no store"):
        export(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        export(tmp_path / "data", tmp_path / "full")
    assert list(files(tmp_path / "full")) == ["mine"]
