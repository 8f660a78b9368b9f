"""Which calls of a disk fail, how full and how slow it is: what a SimDisk asks, and what stands before another disk.

Counts calls by kind, says which of them is due to fail, and raises the error as the system would. What a failed call
leaves behind is the disk's to know.
"""

import errno
import os
import threading
from collections import Counter
from typing import NamedTuple

from rmq_store.disk import Disk, File

OPEN, WRITE, SYNC, RESERVE, REMOVE, FOLDER_SYNC = "open", "write", "sync", "reserve", "remove", "sync_folder"
ROOM_BYTES = 1 << 40


class Fault(NamedTuple):
    """Call `left` (1: the next) of a kind, on paths that begin with `path`, fails; `stays`: all later ones, too.

    `half`: of a write, half gets in before it breaks off.
    """

    kind: str
    left: int
    errno: int = errno.EIO
    half: bool = True
    stays: bool = False
    path: str = ""

    def error(self) -> OSError:
        """As the system says it."""
        return OSError(self.errno, os.strerror(self.errno))


class Faults:
    """One fault of each kind at a time. `room_bytes`: what can be reserved yet. `hits`: calls that failed.

    Clear `may_sync` and every sync waits, as on a disk that is slow for ever; set it again before the end.
    """

    def __init__(self) -> None:
        self.room_bytes = ROOM_BYTES
        self.calls: Counter[str] = Counter()
        self.hits = 0
        self.may_sync = threading.Event()
        self.may_sync.set()
        self._planned: dict[str, Fault] = {}

    def plan(self, fault: Fault) -> None:
        """Counted from now on."""
        self._planned[fault.kind] = fault

    def arm(self, kind: str, path: str, left: int) -> None:
        """In short: the medium fails once."""
        if left:
            self.plan(Fault(kind, left, path=path))

    def disarm(self) -> None:
        """All is well from now on."""
        self._planned.clear()
        self.room_bytes = ROOM_BYTES

    def check(self, kind: str, path: str) -> None:
        """Counts a call. Raises the OSError that is due."""
        if fault := self.due(kind, path):
            raise fault.error()

    def due(self, kind: str, path: str) -> Fault | None:
        """Counts a call; the fault that it is to fail with."""
        self.calls[kind] += 1
        fault = self._planned.get(kind)
        if fault is None or not path.startswith(fault.path):
            return None
        if fault.left > 1:
            self._planned[kind] = fault._replace(left=fault.left - 1)
            return None
        if not fault.stays:
            del self._planned[kind]
        self.hits += 1
        return fault

    def reserve(self, path: str, size: int) -> None:
        """Takes of the room. Raises OSError where there is less."""
        self.check(RESERVE, path)
        if size > self.room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room_bytes -= size


class FaultDisk:
    """Another disk whose calls fail, such as a real one: for what another process, or a tool, looks at."""

    def __init__(self, inner: Disk, fault: Fault) -> None:
        self.faults = Faults()
        self.faults.plan(fault)
        self._inner = inner

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        """See Disk.open."""
        self.faults.check(OPEN, path)
        return _FaultFile(self.faults, path, self._inner.open(path, size, mapped=mapped))

    def size(self, path: str) -> int | None:
        """See Disk.size."""
        return self._inner.size(path)

    def list(self, folder: str) -> list[str]:
        """See Disk.list."""
        return self._inner.list(folder)

    def remove(self, path: str) -> None:
        """See Disk.remove."""
        self.faults.check(REMOVE, path)
        self._inner.remove(path)

    def sync_folder(self, folder: str) -> None:
        """See Disk.sync_folder."""
        self.faults.check(FOLDER_SYNC, folder)
        self._inner.sync_folder(folder)

    def free_bytes(self) -> int:
        """See Disk.free_bytes."""
        return self._inner.free_bytes()


class _FaultFile:
    def __init__(self, faults: Faults, path: str, file: File) -> None:
        self._faults, self._path, self._file = faults, path, file
        self.read, self.data, self.close = file.read, file.data, file.close

    def write(self, offset: int, data: bytes) -> None:
        fault = self._faults.due(WRITE, self._path)
        if fault is None:
            self._file.write(offset, data)
            return
        if fault.half:
            self._file.write(offset, data[: len(data) // 2])
        raise fault.error()

    def sync(self) -> None:
        self._faults.check(SYNC, self._path)
        self._file.sync()

    def reserve(self, offset: int, size: int) -> None:
        self._faults.reserve(self._path, size)
        self._file.reserve(offset, size)
