"""`rmq store repair`: says exactly what it gives up, and asks first."""

import json
from pathlib import Path

from tests.rmq.commands.rig import Commands
from tests.rmq.commands.storerig import a_store, damage, fingerprint


def test_a_sound_store_is_left_alone(rmq: Commands, tmp_path: Path) -> None:
    """Nothing is asked, nothing is written."""
    a_store(tmp_path)
    before = fingerprint(tmp_path)
    assert rmq("store", "repair", str(tmp_path)) == (0, "nothing to repair\n", "")
    assert fingerprint(tmp_path).keys() >= before.keys()
    assert rmq("store", "repair", str(tmp_path), "--dry-run").code == 0


def test_a_dry_run_says_what_would_be_done(rmq: Commands, tmp_path: Path) -> None:
    """Positions, bytes, queue entries; exit code 1, and the store is as it was."""
    places = a_store(tmp_path)
    damage(tmp_path, places[1][0] + 95)
    before = fingerprint(tmp_path)
    code, out, _ = rmq("store", "repair", str(tmp_path), "--dry-run")
    assert code == 1
    assert out.splitlines() == [
        f"replace: commitlog/{0:020d} bytes {places[1][0]} to {places[2][0]}: no whole record",
        "lost: orders queue 0 offsets 0 to 1",
        f"{places[1][1]} bytes of the log are given up; leases and acks in them, too: delivered again",
        "nothing was changed",
    ]
    assert fingerprint(tmp_path) == before


def test_it_asks_and_a_no_changes_nothing(rmq: Commands, tmp_path: Path) -> None:
    """Exit code 130: interrupted."""
    damage(tmp_path, a_store(tmp_path)[2][0] + 10)
    before = fingerprint(tmp_path)
    code, out, err = rmq("store", "repair", str(tmp_path), typed="n\n")
    assert code == 130
    assert "Do this to the store?" in err
    assert out.startswith("replace: ")
    assert fingerprint(tmp_path) == before


def test_what_was_cut_out_is_kept_and_a_check_is_content(rmq: Commands, tmp_path: Path) -> None:
    """With --yes it does not ask."""
    places = a_store(tmp_path)
    damage(tmp_path, places[1][0] + 95)
    assert rmq("store", "check", str(tmp_path)).code == 1
    code, out, _ = rmq("store", "repair", str(tmp_path), "--yes")
    [kept] = (tmp_path / "lost+found").iterdir()
    assert (code, out.splitlines()[-2:]) == (0, [f"kept: lost+found/{kept.name}", "repaired"])
    assert kept.stat().st_size == places[1][1]
    assert rmq("store", "check", str(tmp_path)).code == 0


def test_as_json(rmq: Commands, tmp_path: Path) -> None:
    """It cannot ask then."""
    places = a_store(tmp_path)
    damage(tmp_path, places[1][0] + 95)
    assert rmq("store", "repair", str(tmp_path), "--json")[::2] == (
        2,
        "rmq: --json cannot ask: add --yes or --dry-run\n",
    )
    found = json.loads(rmq("store", "repair", str(tmp_path), "--json", "--yes").out)
    assert found["done"]
    assert found["bytes_given_up"] == places[1][1]
    assert found["lost"] == [{"topic": "orders", "queue_id": 0, "start": 0, "end": 1}]
    assert found["body_checksum_only"] == 0
    assert [(step["action"], step["start"]) for step in found["steps"]] == [("replace", places[1][0])]
    assert len(found["kept"]) == 1


def test_a_file_that_is_cut_off_or_missing_is_made_whole(rmq: Commands, tmp_path: Path) -> None:
    """What nothing else can open."""
    a_store(tmp_path)
    path = tmp_path / "commitlog" / f"{0:020d}"
    (tmp_path / "commitlog" / f"{8192:020d}").write_bytes(bytes(4096))
    path.write_bytes(path.read_bytes()[:4000])
    assert "gap" in rmq("store", "check", str(tmp_path)).err or "sizes" in rmq("store", "check", str(tmp_path)).err
    out = rmq("store", "repair", str(tmp_path), "--yes").out
    assert f"lengthen: commitlog/{0:020d} bytes 4000 to 4096: the file is cut off\n" in out
    assert f"create: commitlog/{4096:020d} bytes 0 to 4096: the file is missing\n" in out
    assert rmq("store", "check", str(tmp_path)).code == 0


def test_no_store_is_one_clear_line(rmq: Commands, tmp_path: Path) -> None:
    """As for all commands of the store."""
    assert "is no store" in rmq("store", "repair", str(tmp_path)).err
