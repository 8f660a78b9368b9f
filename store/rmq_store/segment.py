"""One file of the commit log: `commitlog/<20 digits of its first position>`, always of full length, sparse."""

import threading

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
        self._syncing = threading.Lock()
        self._sync_failure: OSError | None = None

    def read(self, position: int, size: int) -> bytes:
        """Bytes at a log position; fewer at the segment's end."""
        return self.file.read(position - self.base, size)

    def write(self, position: int, data: bytes) -> None:
        """Into the page cache. Raises OSError."""
        self.file.write(position - self.base, data)

    def sync(self) -> None:
        """Returns when all that was written is on stable storage. Raises OSError, and once it did, always.

        The system tells of a failed write only once for an open file: of two workers, both have to hear of it.
        """
        with self._syncing:
            if self._sync_failure is not None:
                raise self._sync_failure
            try:
                self.file.sync()
            except OSError as error:
                self._sync_failure = error
                raise
