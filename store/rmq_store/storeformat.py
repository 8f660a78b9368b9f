"""`rmq/format`: which format a store has, and how long its segments are; one line, checked.

    1 1073741824 5b2c81d0     version, bytes of a segment, CRC-32 (hex) of all before the last space

The rule for every version to come: the first word is its number, the last the checksum. So a newer store is refused by
name, and a damaged file is known as one: it is made anew, since each record of the log says for itself what it is. The
first stores have the bare number. A store without the file is Apache's, or new.
"""

import logging
import os
import zlib
from pathlib import Path

from rmq_store.errors import StoreError

log_ = logging.getLogger("rmq.store")
VERSION = 1
PATH = "rmq/format"


class Damaged(Exception):  # noqa: N818  # says what the file is
    """The checksum does not match."""


def parse(text: str) -> tuple[int, int]:
    """Version, and bytes of a segment or 0 where it does not say. Raises Damaged."""
    words = text.split()
    if len(words) == 1 and words[0].isdecimal():
        return int(words[0]), 0
    front, _, crc = text.strip().rpartition(" ")
    if not words or not words[0].isdecimal() or crc != f"{zlib.crc32(front.encode()):08x}":
        raise Damaged(f"{PATH} is damaged")
    known = int(words[0]) == VERSION and len(words) == 3
    return int(words[0]), int(words[1]) if known else 0


def line(segment_bytes: int) -> str:
    """What parse reads."""
    front = f"{VERSION} {segment_bytes}"
    return f"{front} {zlib.crc32(front.encode()):08x}\n"


def text_of(root: Path) -> str:
    """What the file holds; empty where there is none. Raises OSError."""
    path = root / PATH
    return path.read_text(errors="replace") if path.exists() else ""


def check(root: Path) -> int:
    """The bytes of a segment, 0 where nothing says. Raises OSError, and StoreError for another version's store."""
    text = text_of(root)
    if not text.strip():
        return 0
    try:
        version, segment_bytes = parse(text)
    except Damaged as error:
        log_.error("%s: it is made anew", error)
        return 0
    if version != VERSION:
        raise StoreError(
            f"{root} holds store format {version} of another version of rmq, this one reads {VERSION}: "
            "use that version, or another --data"
        )
    return segment_bytes


def put(root: Path, segment_bytes: int) -> None:
    """Writes it where it is not so already, whole or not at all. Raises OSError."""
    if text_of(root) == line(segment_bytes):
        return
    path = root / PATH
    partial = path.with_name(path.name + ".new")
    with partial.open("w") as file:
        file.write(line(segment_bytes))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
