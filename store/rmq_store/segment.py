"""One file of the commit log: `commitlog/<20 digits of its first position>`, always of full length, sparse."""

from rmq_store.disk import Disk, File

FOLDER = "commitlog"


def path_of(base: int) -> str:
    """The file that starts at position `base` (Apache's naming)."""
    return f"{FOLDER}/{base:020d}"


class Segment:
    """Bytes [base, end) of the log. A record never crosses its end."""

    def __init__(self, disk: Disk, base: int, size: int) -> None:
        self.base = base
        self.end = base + size
        self.file: File = disk.open(path_of(base), size, mapped=True)

    def read(self, position: int, size: int) -> bytes:
        """Bytes at a log position; fewer at the segment's end."""
        return self.file.read(position - self.base, size)

    def write(self, position: int, data: bytes) -> None:
        """Into the page cache. Raises OSError."""
        self.file.write(position - self.base, data)
