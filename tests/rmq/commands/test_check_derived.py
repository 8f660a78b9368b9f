"""`rmq store check` on what is made from the log, and on records that came from Apache."""

from pathlib import Path

from tests.rmq.commands.rig import Commands
from tests.rmq.commands.storerig import a_store


def test_damage_besides_the_log_is_told_and_the_log_is_whole(rmq: Commands, tmp_path: Path) -> None:
    """Exit code 0: a server makes it anew."""
    a_store(tmp_path)
    (tmp_path / "rmq" / "keys").mkdir()
    (tmp_path / "rmq" / "keys" / f"{0:020d}").write_bytes(b"no keys")
    code, out, _ = rmq("store", "check", str(tmp_path))
    assert code == 0
    assert out.splitlines()[-2:] == [
        f"damaged: rmq/keys/{0:020d} bytes 0 to 7: the key index is damaged",
        "ok: the log is whole, and a server makes the rest anew",
    ]
