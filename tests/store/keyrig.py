"""What the tests of the key index share: messages with keys, searches, files."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from rmq_store import keyfile
from rmq_store.disk import Disk
from rmq_store.record import Record, encode_properties
from tests.store.support import Rig

BODY = bytes(3000)  # about 20 messages a segment, and so a file
BIG = 1 << 40


def properties(message_id: str, keys: str = "") -> bytes:
    """A message's, encoded."""
    return encode_properties({"UNIQ_KEY": message_id, **({"KEYS": keys} if keys else {}), "TAGS": "a"})


def put(rig: Rig, message_id: str, keys: str = "", topic: str = "t", body: bytes = b"body") -> int:
    """Appends one message, which can be read then; its position."""
    rig.send(topic, body=body, properties=properties(message_id, keys))
    position = rig.store.log.last[0]
    rig.turn()
    return position


def put_many(rig: Rig, count: int, first: int = 0) -> None:
    """Messages m<n>, each with the keys `all` and k<n % 3>."""
    for number in range(first, first + count):
        put(rig, f"m{number}", f"all k{number % 3}", body=BODY)


def start_find(
    rig: Rig, key: str, topic: str = "t", limit: int = 1000, bytes_max: int = BIG
) -> "asyncio.Future[list[Record]]":
    """A search that has only begun."""
    return rig.store.keys.find([(topic, key)], lambda found: found.topic == topic, limit=limit, bytes_max=bytes_max)


def find(rig: Rig, key: str, topic: str = "t", limit: int = 1000, bytes_max: int = BIG) -> list[str]:
    """Ids of what is found, in order."""
    found = rig.wait(start_find(rig, key, topic, limit, bytes_max))
    assert isinstance(found, list)
    return [record.decode_properties()["UNIQ_KEY"] for record in found]


def newest_first(count: int, first: int = 0) -> list[str]:
    """The ids of so many messages from a number on."""
    return [f"m{number}" for number in reversed(range(first, first + count))]


@contextlib.contextmanager
def opened(root: Path | None, disk: Disk | None = None, **options: object) -> Iterator[Rig]:
    """A store for a while."""
    rig = Rig(root, disk, **options)
    yield rig
    rig.close()


def files(root: Path) -> list[Path]:
    """Those of the index, by position."""
    return sorted((root / keyfile.FOLDER).glob("*"))


def write_all(rig: Rig) -> None:
    """Until all that can be in files is."""
    find(rig, "nothing")
    rig.until(lambda: not rig.store.keys._busy)
