"""Stores for the tests of `rmq store`: written record by record, so that each byte's place is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from rmq_store import journal
from rmq_store.commitlog import CommitLog
from rmq_store.disk import RealDisk
from rmq_store.journal import Change, Cursors, GroupPut, Leased, TopicPut
from rmq_store.record import SYS_FLAG_ROLLBACK, Draft, encode_properties
from tests.rmq.commands.rig import NOW_MS

SEGMENT_BYTES = 4096
CHANGES: list[Change] = [TopicPut("orders", 1, 2), GroupPut("billing", 3, (1000,), 0, 0, 2.0)]

Row: TypeAlias = "tuple[str, int, int, bytes] | list[Change]"
"""A message's topic, queue id, queue offset and body, or a record of the journal."""


def journal_of(*changes: Change) -> list[Change]:
    """One record of the journal."""
    return list(changes)


def write_store(root: Path, rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Makes a store as a killed server leaves it, without a checkpoint; the position and size of each record."""
    log = CommitLog(RealDisk(root), segment_bytes=SEGMENT_BYTES, reserve_bytes=SEGMENT_BYTES)
    log.set_end(0)
    places = []
    for number, row in enumerate(rows):
        if isinstance(row, list):
            [body] = journal.encode(row)
            draft = Draft.make(journal.TOPIC, 0, body, b"", SYS_FLAG_ROLLBACK, NOW_MS, b"\x7f\0\0\1", 0)
            places.append((log.append(draft, 0, NOW_MS + number, journal=True), draft.size))
        else:
            topic, queue_id, offset, body = row
            properties = encode_properties({"UNIQ_KEY": f"ID{number}", "TAGS": "a"})
            draft = Draft.make(topic.encode(), queue_id, body, properties, 0, NOW_MS, b"\x7f\0\0\1", 0)
            places.append((log.append(draft, offset, NOW_MS + number), draft.size))
    log.write()
    log.close()
    (root / "rmq").mkdir()
    (root / "rmq" / "format").write_text("1\n")
    return places


def a_store(root: Path) -> list[tuple[int, int]]:
    """Two queues with three messages, a group that has one of them and settled nothing."""
    leased = Leased("billing", "orders", 1, NOW_MS, NOW_MS + 60_000, "", [(0, 1, [0], [])])
    rows: list[Row] = [
        CHANGES,
        ("orders", 0, 0, b"first"),
        ("orders", 0, 1, b"second"),
        ("orders", 1, 0, b"\xff\x00"),
        journal_of(Cursors("billing", "orders", [(0, 0), (1, 0)]), leased),
    ]
    return write_store(root, rows)


def damage(root: Path, position: int) -> None:
    """Flips one byte of the log."""
    path = root / "commitlog" / f"{position - position % SEGMENT_BYTES:020d}"
    with path.open("r+b") as file:
        file.seek(position % SEGMENT_BYTES)
        byte = file.read(1)[0]
        file.seek(position % SEGMENT_BYTES)
        file.write(bytes((byte ^ 1,)))


def fingerprint(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything that a writer would change: names, times and bytes."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.stat().st_mode, _bytes(path))
        for path in sorted(root.rglob("*"))
    }


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
