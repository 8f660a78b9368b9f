"""`rmq store`: a directory without a server, and never changed."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import started
from tests.rmq.commands.rig import NOW_MS, Commands
from tests.rmq.commands.storerig import CHANGES, Row, a_store, damage, fingerprint, write_store
from tests.serving import Server

VERBS = ("inspect", "check", "dump")


def loaded(out: str) -> dict[str, object]:
    """One JSON document."""
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_of_a_sound_store_is_0(rmq: Commands, tmp_path: Path) -> None:
    """With what it counted."""
    places = a_store(tmp_path)
    end = sum(places[-1])
    assert rmq("store", "check", str(tmp_path)) == (
        0,
        f"{tmp_path}: 3 messages and 2 records of the journal in bytes 0 to {end} ({end} B)\n"
        "stored from 2026-09-21 14:13:20.000+00:00 to 2026-09-21 14:13:20.004+00:00\n"
        "ok\n",
        "",
    )


def test_check_as_json(rmq: Commands, tmp_path: Path) -> None:
    """The same."""
    places = a_store(tmp_path)
    assert loaded(rmq("store", "check", str(tmp_path), "--json").out) == {
        "data": str(tmp_path),
        "ok": True,
        "begin": 0,
        "end": sum(places[-1]),
        "segments": 1,
        "records": 5,
        "messages": 3,
        "journal_records": 2,
        "first_stored_ms": NOW_MS,
        "last_stored_ms": NOW_MS + 4,
        "checkpoint_end": None,
        "unfinished": False,
        "damaged": [],
        "derived": [],
        "body_checksum_only": 0,
    }


def test_check_names_each_damaged_range_and_is_1(rmq: Commands, tmp_path: Path) -> None:
    """One flipped bit in two records."""
    places = a_store(tmp_path)
    for index in (1, 3):
        damage(tmp_path, places[index][0] + 90)
    result = rmq("store", "check", str(tmp_path))
    assert result.code == 1
    lost = places[1][1] + places[3][1]
    assert result.out.splitlines()[-3:] == [
        f"damaged: bytes {places[1][0]} to {places[2][0]} ({places[1][1]} bytes)",
        f"damaged: bytes {places[3][0]} to {places[4][0]} ({places[3][1]} bytes)",
        f"DAMAGED: {lost} bytes in 2 ranges; a server serves the rest, restore a copy for these",
    ]
    found = rmq("store", "check", str(tmp_path), "--json")
    assert (found.code, loaded(found.out)["ok"], loaded(found.out)["messages"]) == (1, False, 1)


@pytest.mark.parametrize("index", range(5))
def test_check_finds_a_flipped_bit_in_every_record(rmq: Commands, tmp_path: Path, index: int) -> None:
    """In the last one it cannot be told from a write that a crash cut off."""
    places = a_store(tmp_path)
    damage(tmp_path, places[index][0] + places[index][1] - 30)
    found = loaded(rmq("store", "check", str(tmp_path), "--json").out)
    assert (found["ok"], found["unfinished"]) == ((True, True) if index == 4 else (False, False))


def test_a_record_that_a_crash_cut_off_is_no_damage(rmq: Commands, tmp_path: Path) -> None:
    """The next start cuts it off."""
    places = a_store(tmp_path)
    os.truncate(tmp_path / "commitlog" / f"{0:020d}", sum(places[-1]) - 5)
    os.truncate(tmp_path / "commitlog" / f"{0:020d}", 4096)
    result = rmq("store", "check", str(tmp_path))
    assert result.code == 0
    assert f"unfinished bytes behind {places[-1][0]}, as a crash leaves them" in result.out


def test_check_reads_across_segments(rmq: Commands, tmp_path: Path) -> None:
    """The mark that closes a full one is no damage, a bad record there is."""
    rows: list[Row] = [CHANGES, *(("orders", 0, n, b"x" * 700) for n in range(12))]
    places = write_store(tmp_path, rows)
    found = loaded(rmq("store", "check", str(tmp_path), "--json").out)
    assert (found["ok"], found["messages"], found["segments"]) == (
        True,
        12,
        len(list((tmp_path / "commitlog").iterdir())),
    )
    damage(tmp_path, places[6][0] + 100)
    found = loaded(rmq("store", "check", str(tmp_path), "--json").out)
    assert (found["ok"], found["messages"]) == (False, 11)


def test_check_of_a_new_log_is_fine(rmq: Commands, tmp_path: Path) -> None:
    """No record at all."""
    write_store(tmp_path, [])
    assert rmq("store", "check", str(tmp_path)).out.endswith("in bytes 0 to 0 (0 B)\nok\n")


# -- inspect -----------------------------------------------------------------------------------------------------------


def test_inspect_shows_what_a_start_would_recover(rmq: Commands, tmp_path: Path) -> None:
    """Topics, and each group's place in them."""
    places = a_store(tmp_path)
    lines = rmq("store", "inspect", str(tmp_path)).out.splitlines()
    assert lines[0] == f"{tmp_path}: format 1, start number 0"
    assert lines[1].startswith(f"log: bytes 0 to {sum(places[-1])} (")
    assert "orders  NORMAL       2         3" in lines
    assert "billing  orders      0          0     1    2     1" in lines
    assert "billing  orders      1          0     0    1     0" in lines


def test_inspect_as_json(rmq: Commands, tmp_path: Path) -> None:
    """Sizes in bytes, sparse files as they are on disk."""
    a_store(tmp_path)
    found = loaded(rmq("store", "inspect", str(tmp_path), "--json").out)
    queues = [{"id": 0, "min_offset": 0, "max_offset": 2}, {"id": 1, "min_offset": 0, "max_offset": 1}]
    assert found["topics"] == [{"name": "orders", "type": "NORMAL", "queues": queues}]
    [group] = json.loads(json.dumps(found["groups"]))
    assert (group["name"], group["attempts_max"], group["retry_ms"]) == ("billing", 3, [1000])
    assert (found["segment_bytes"], found["open_messages"], found["format"]) == (4096, 1, "1")
    [log] = [one for one in json.loads(json.dumps(found["files"])) if one["name"] == "commitlog"]
    assert (log["count"], log["bytes"]) == (1, 4096)


def test_inspect_goes_on_behind_damage(rmq: Commands, tmp_path: Path) -> None:
    """As a start does: a queue begins with its first message that can be read."""
    places = a_store(tmp_path)
    damage(tmp_path, places[1][0] + 90)
    lines = rmq("store", "inspect", str(tmp_path)).out.splitlines()
    assert lines[2] == "DAMAGED: 1 ranges; `rmq store check` says which"
    assert "orders  NORMAL       2         2" in lines
    assert loaded(rmq("store", "inspect", str(tmp_path), "--json").out)["damaged_ranges"] == 1


# -- dump --------------------------------------------------------------------------------------------------------------


def test_dump_prints_every_record_in_order(rmq: Commands, tmp_path: Path) -> None:
    """The journal's entries below it, by name."""
    places = a_store(tmp_path)
    damage(tmp_path, places[2][0] + 90)
    lines = rmq("store", "dump", str(tmp_path)).out.splitlines()
    assert lines[0] == f"0 {places[0][1]} 2026-09-21 14:13:20.000+00:00 journal"
    assert lines[1] == "    TopicPut name=orders kind=1 queues=2"
    message = f"{places[1][0]} {places[1][1]} 2026-09-21 14:13:20.001+00:00 orders 0@0 UNIQ_KEY=ID1 TAGS=a first"
    assert lines[3] == message
    assert lines[4] == f"{places[2][0]} DAMAGED {places[2][1]} bytes"
    assert lines[5].endswith("orders 1@0 UNIQ_KEY=ID3 TAGS=a (2 bytes, not text)")
    assert lines[7] == "    Cursors group=billing topic=orders nexts=[(0, 0), (1, 0)] settles=False"


def test_dump_as_json_is_a_document_a_line(rmq: Commands, tmp_path: Path) -> None:
    """Each says what kind it is."""
    places = a_store(tmp_path)
    damage(tmp_path, places[2][0] + 90)
    rows = [json.loads(line) for line in rmq("store", "dump", str(tmp_path), "--json").out.splitlines()]
    assert [row["kind"] for row in rows] == ["journal", "message", "damaged", "message", "journal"]
    assert rows[0]["entries"][0] == {"entry": "TopicPut", "name": "orders", "kind": 1, "queues": 2}
    assert (rows[1]["body"], rows[1]["body_base64"], rows[1]["offset"]) == ("first", False, 0)
    assert rows[1]["properties"] == {"UNIQ_KEY": "ID1", "TAGS": "a"}
    assert rows[3]["body_base64"] is True


def test_dump_shows_a_part(rmq: Commands, tmp_path: Path) -> None:
    """From a position on, of one topic, so many."""
    places = a_store(tmp_path)

    def positions(*args: str) -> list[int]:
        out = rmq("store", "dump", str(tmp_path), "--json", *args).out
        return [json.loads(line)["position"] for line in out.splitlines()]

    assert positions("--from", str(places[2][0])) == [place[0] for place in places[2:]]
    assert positions("--limit", "2") == [place[0] for place in places[:2]]
    assert positions("--topic", "orders") == [place[0] for place in places[1:4]]
    assert positions("--topic", "others") == []
    assert positions("--from", "999999") == []


def test_a_journal_of_a_newer_rmq_is_shown_as_such(
    rmq: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dump goes on, inspect cannot."""
    a_store(tmp_path)
    monkeypatch.setattr("rmq_store.journal.VERSION", 2)
    assert "    unknown why=journal version 1" in rmq("store", "dump", str(tmp_path)).out
    assert "was written by a newer rmq" in rmq.fails("store", "inspect", str(tmp_path), code=1)


# -- leaves all as it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_in_the_directory_is_changed(rmq: Commands, tmp_path: Path, verb: str) -> None:
    """Not even what a server would repair: damage, a cut-off record, a checkpoint."""
    places = a_store(tmp_path)
    damage(tmp_path, places[1][0] + 90)
    os.truncate(tmp_path / "commitlog" / f"{0:020d}", sum(places[-1]) - 5)
    before = fingerprint(tmp_path)
    rmq("store", verb, str(tmp_path))
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("verb", VERBS)
def test_a_directory_that_is_no_store_is_1(rmq: Commands, tmp_path: Path, verb: str) -> None:
    """And stays as it is."""
    said = rmq.fails("store", verb, str(tmp_path), code=1)
    assert said == f"{tmp_path} is no store: it has no commitlog directory; name the --data of a server"
    assert "is no store" in rmq.fails("store", verb, str(tmp_path / "nowhere"), code=1)
    assert list(tmp_path.iterdir()) == []


def test_a_log_with_a_missing_file_is_1(rmq: Commands, tmp_path: Path) -> None:
    """As a server would say it."""
    write_store(tmp_path, [CHANGES, *(("orders", 0, n, b"x" * 700) for n in range(12))])
    (tmp_path / "commitlog" / f"{4096:020d}").unlink()
    assert "has a gap between its files" in rmq.fails("store", "check", str(tmp_path), code=1)


def test_a_reader_keeps_a_server_out_and_no_other_reader(rmq: Commands, tmp_path: Path) -> None:
    """So that the log does not grow while it is read. The lock here is another process's."""
    a_store(tmp_path)
    (tmp_path / "lock").touch()
    hold = "import fcntl, sys; f = open(sys.argv[1]); fcntl.lockf(f, fcntl.LOCK_SH, 1, 0); print(flush=True); input()"
    with started([sys.executable, "-c", hold, tmp_path / "lock"], stdin=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert rmq("store", "check", str(tmp_path)).code == 0
        with (tmp_path / "lock").open("r+b") as mine, pytest.raises(OSError, match=r"unavailable|denied"):
            fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        other.communicate("\n", timeout=30)


def test_the_store_of_a_running_server_is_left_alone(rmq: Commands, tmp_path: Path) -> None:
    """One line; after a kill -9, and after a stop, it can be read, and says the same."""
    with Server("--topic", "orders:NORMAL:2", "--group", "billing:3", data=tmp_path / "data") as server:
        data = str(server.data)
        for verb in VERBS:
            assert rmq.fails("store", verb, data, code=1) == (
                f"{data} is in use by a server: stop that one, or name a copy"
            )
        server.kill()
        killed = loaded(rmq("store", "inspect", data, "--json").out)
        assert rmq("store", "check", data).code == 0
        server.restart()
        server.stop()
        stopped = loaded(rmq("store", "inspect", data, "--json").out)
        assert stopped["topics"] == killed["topics"]
        assert loaded(rmq("store", "check", data, "--json").out)["checkpoint_end"] == stopped["end"]


def test_what_the_checkpoint_knew_and_the_log_lacks_is_damage(rmq: Commands, tmp_path: Path) -> None:
    """A log that was cut off behind a clean stop, which no crash does."""
    with Server("--topic", "orders:NORMAL:2", data=tmp_path / "data") as server:
        server.stop()
        data = tmp_path / "data"
        segment = data / "commitlog" / f"{0:020d}"
        with segment.open("r+b") as file:
            file.write(bytes(200))
        result = rmq("store", "check", str(data))
        assert (result.code, "DAMAGED" in result.out) == (1, True)


def test_on_a_terminal_there_is_a_bar_and_a_drawn_table(tmp_path: Path) -> None:
    """Elsewhere neither: the other tests see plain text."""
    a_store(tmp_path)
    reading, writing = os.openpty()
    command = [sys.executable, "-m", "rmq", "store", "inspect", str(tmp_path)]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with started(command, stdin=writing, stdout=writing, stderr=writing, env=env) as process:
        os.close(writing)
        shown = b""
        try:
            while part := os.read(reading, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        assert process.wait(30) == 0
    os.close(reading)
    assert b"reading" in shown
    assert "─────".encode() in shown


def test_a_checkpoint_that_cannot_be_read_says_nothing(rmq: Commands, tmp_path: Path) -> None:
    """It is never the truth; a start discards it."""
    a_store(tmp_path)
    (tmp_path / "rmq" / "checkpoint").mkdir()
    (tmp_path / "rmq" / "checkpoint" / "data.mdb").write_bytes(b"no database" * 1000)
    found = loaded(rmq("store", "check", str(tmp_path), "--json").out)
    assert (found["ok"], found["checkpoint_end"]) == (True, None)


def test_a_log_that_cannot_be_read_is_1(rmq: Commands, tmp_path: Path) -> None:
    """A directory stands where a file should."""
    (tmp_path / "commitlog" / f"{0:020d}").mkdir(parents=True)
    assert rmq.fails("store", "check", str(tmp_path), code=1).startswith("cannot read")
