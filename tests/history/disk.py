"""The least disk that can lose power: it forgets what was written to a file since that file's last sync.

Whole files only, nothing torn or reordered, entries of folders never lost: enough to show what a missing fsync costs.
tests/sim has the disk that fails in every way.
"""

import copy
import threading
from typing import Self

from rmq_store.disk import File, MemoryDisk, _MemoryFile


class _LossyFile(_MemoryFile):
    def __init__(self, size: int, may_sync: threading.Event) -> None:
        super().__init__(size)
        self._may_sync = may_sync
        self._synced = b""

    def sync(self) -> None:
        self._may_sync.wait()
        self._synced = bytes(self._data)

    def after(self, may_sync: threading.Event, *, power_cut: bool) -> "_LossyFile":
        """The file as the next process finds it."""
        found = _LossyFile(self.size, may_sync)
        found._data = bytearray(self._synced if power_cut else self._data)
        found._synced = self._synced
        return found


class LossyDisk(MemoryDisk):
    """Clear `may_sync` and every sync waits, as on a disk that is slow for ever; set it again before the end."""

    def __init__(self) -> None:
        super().__init__()
        self.may_sync = threading.Event()
        self.may_sync.set()

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        """See Disk.open."""
        del mapped
        return self._files.setdefault(path, _LossyFile(size, self.may_sync))

    def after(self, *, power_cut: bool) -> Self:
        """What is left of it: without a power cut, all that was written."""
        found = copy.copy(self)
        found.may_sync = threading.Event()
        found.may_sync.set()
        files = {path: file for path, file in self._files.items() if isinstance(file, _LossyFile)}
        found._files = {path: file.after(found.may_sync, power_cut=power_cut) for path, file in files.items()}
        return found

    def flip(self, found: bytes) -> None:
        """One bit of the only place where these bytes are stored: the medium's fault, not ours."""
        ((file, at),) = [(f, f._data.index(found)) for f in self._files.values() if found in f._data]
        file._data[at] ^= 1
