"""`rmq/format`: which format a store has, how long its segments are, and which records are not ours; a line, checked.

    1 1073741824 0 5b2c81d0     version, bytes of a segment, foreign end, CRC-32 (hex) of all before the last space

Foreign end: records before this position may be Apache's, which have a checksum of their body only. From there on one
without a checksum of the whole is damaged: else a topic, a tag or a key could be another's.

The rule for every version to come: the first word is its number, the last the checksum. So a newer store is refused by
name, and a damaged file is known as one: it is made anew, since each record of the log says for itself what it is. The
first stores have the bare number. A store without the file is Apache's, or new.
"""

import logging
import zlib
from pathlib import Path
from typing import NamedTuple

from rmq_store.disk import put_text
from rmq_store.errors import StoreError

log_ = logging.getLogger("rmq.store")
VERSION = 1
PATH = "rmq/format"
ANYWHERE = (1 << 63) - 1  # a foreign end that is behind every log


class Damaged(Exception):  # noqa: N818  # says what the file is
    """The checksum does not match."""


class Form(NamedTuple):
    """What is known of a store. `segment_bytes` 0: nothing says."""

    version: int = VERSION
    segment_bytes: int = 0
    foreign_end: int = 0


def parse(text: str) -> Form:
    """What a file's text says. Raises Damaged."""
    words = text.split()
    if len(words) == 1 and words[0].isdecimal():
        return Form(int(words[0]))
    front, _, crc = text.strip().rpartition(" ")
    if not words or not words[0].isdecimal() or crc != f"{zlib.crc32(front.encode()):08x}":
        raise Damaged(f"{PATH} is damaged")
    known = int(words[0]) == VERSION and len(words) == 4
    return Form(VERSION, int(words[1]), int(words[2])) if known else Form(int(words[0]))


def line(segment_bytes: int, foreign_end: int) -> str:
    """What parse reads."""
    front = f"{VERSION} {segment_bytes} {foreign_end}"
    return f"{front} {zlib.crc32(front.encode()):08x}\n"


def text_of(root: Path) -> str:
    """What the file holds; empty where there is none. Raises OSError."""
    path = root / PATH
    return path.read_text(errors="replace") if path.exists() else ""


def check(root: Path) -> Form:
    """What is known; where nothing is, all records may be foreign.

    Raises OSError, and StoreError for another version's store.
    """
    text = text_of(root)
    try:
        form = parse(text) if text.strip() else Form(foreign_end=ANYWHERE)
    except Damaged as error:
        log_.error("%s: it is made anew", error)
        return Form(foreign_end=ANYWHERE)
    if form.version != VERSION:
        raise StoreError(
            f"{root} holds store format {form.version} of another version of rmq, this one reads {VERSION}: "
            "use that version, or another --data"
        )
    return form


def put(root: Path, segment_bytes: int, foreign_end: int) -> None:
    """Writes it where it is not so already, whole and durably or not at all. Raises OSError."""
    text = line(segment_bytes, foreign_end)
    if text_of(root) == text:
        return
    put_text(root / PATH, text)
