"""A disk that fails: one call of its kind, or each from that one on; and one with a quota."""

import errno
import os
from collections import Counter
from typing import NamedTuple

from rmq_store.disk import Disk, File

OPEN, WRITE, SYNC, RESERVE, REMOVE, FOLDER_SYNC = "open", "write", "sync", "reserve", "remove", "sync_folder"


class Fault(NamedTuple):
    """Call `number` (from 1) of a kind fails; `half`: half of a write gets in first; `stays`: all later ones, too."""

    kind: str
    number: int
    errno: int
    half: bool = False
    stays: bool = False


class FaultDisk:
    """Another disk, whose calls are counted by kind, and one of which fails.

    `drops`: a sync that fails loses what it was for, as Linux drops the pages; the next one knows nothing of it.
    """

    def __init__(self, inner: Disk, fault: Fault | None = None, *, drops: bool = False) -> None:
        self._inner = inner
        self.drops = drops
        self.fault = fault
        self.calls: Counter[str] = Counter()
        self.hit = False

    def check(self, kind: str) -> bool:
        """Counts a call; True where half of it is to be done. Raises the OSError that is due."""
        self.calls[kind] += 1
        fault = self.fault
        if fault is None or fault.kind != kind:
            return False
        number = self.calls[kind]
        if number != fault.number and not (fault.stays and number > fault.number):
            return False
        self.hit = True
        if fault.half:
            return True
        raise self.error()

    def error(self) -> OSError:
        """As the system would say it."""
        assert self.fault is not None
        return OSError(self.fault.errno, os.strerror(self.fault.errno))

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        self.check(OPEN)
        return _FaultFile(self, self._inner.open(path, size, mapped=mapped))

    def size(self, path: str) -> int | None:
        return self._inner.size(path)

    def list(self, folder: str) -> list[str]:
        return self._inner.list(folder)

    def remove(self, path: str) -> None:
        self.check(REMOVE)
        self._inner.remove(path)

    def sync_folder(self, folder: str) -> None:
        self.check(FOLDER_SYNC)
        self._inner.sync_folder(folder)

    def free_bytes(self) -> int:
        return self._inner.free_bytes()


class _FaultFile:
    def __init__(self, disk: FaultDisk, file: File) -> None:
        self._disk, self._file = disk, file
        self._before: list[tuple[int, bytes]] = []  # what unsynced writes replaced

    def read(self, offset: int, size: int) -> bytes:
        return self._file.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        if self._disk.check(WRITE):
            self._file.write(offset, data[: len(data) // 2])
            raise self._disk.error()
        if self._disk.drops:
            self._before.append((offset, self._file.read(offset, len(data))))
        self._file.write(offset, data)

    def sync(self) -> None:
        try:
            self._disk.check(SYNC)
        except OSError:
            while self._before:
                self._file.write(*self._before.pop())
            raise
        self._file.sync()
        self._before.clear()

    def reserve(self, offset: int, size: int) -> None:
        self._disk.check(RESERVE)
        self._file.reserve(offset, size)

    def data(self, offset: int) -> list[tuple[int, int]]:
        return self._file.data(offset)

    def close(self) -> None:
        self._file.close()


class QuotaDisk(FaultDisk):
    """Only so many bytes can be reserved: what a full file system does."""

    def __init__(self, inner: Disk, room: int) -> None:
        super().__init__(inner)
        self.room = room

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        return _QuotaFile(self, self._inner.open(path, size, mapped=mapped))

    def free_bytes(self) -> int:
        return self.room


class _QuotaFile(_FaultFile):
    _disk: QuotaDisk

    def reserve(self, offset: int, size: int) -> None:
        if size > self._disk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.room -= size
        self._file.reserve(offset, size)
