"""A disk in memory that knows what a power cut may take: what was synced is kept apart from what was not.

A file has safe bytes and a list of changes since its last sync (writes, a length); a folder has safe entries and a list
of changes since its last sync. `frozen` copies both at one moment; `after_power_cut` makes of such a copy one of the
disks that a start may find: all that is safe, and any part of the rest, writes torn at 512 bytes and in any order,
files missing whose folder was not synced, removed ones back. Bytes that were synced never suffer from a later write
beside them: such a disk would break every store. Reads and the process's end see everything at once.

`on_event` hears of each step before it is taken, those inside of `open` too; `faults` decides which calls fail. No
clock; who calls decides about randomness. Workers may be threads: a change and a sync of it exclude each other.
"""

import random
import threading
from collections.abc import Callable
from typing import NamedTuple

from rmq_store.disk import File
from tests.sim.faults import FOLDER_SYNC, OPEN, REMOVE, SYNC, WRITE, Faults

SECTOR_BYTES = 512
NOTHING, EVERYTHING, IN_ORDER, SECTORS = "nothing", "everything", "in order", "sectors"
MODES = (NOTHING, EVERYTHING, IN_ORDER, SECTORS, SECTORS)
"""How much of what was not synced a power cut leaves: writes in order to one that is torn, or sectors of any."""


class Write(NamedTuple):
    """A change of a file: bytes at an offset; its new length for `data` None."""

    offset: int
    data: bytes | None


class _Node:
    """A file's content, whatever its name."""

    def __init__(self, safe: bytearray, size: int) -> None:
        self.now = bytearray(safe)
        self.size = size
        self.safe, self.safe_size = safe, size
        self.changes: list[Write] = []

    def change(self, change: Write) -> None:
        self.changes.append(change)
        self.size = _apply(self.now, self.size, change)

    def sync(self) -> None:
        for change in self.changes:
            self.safe_size = _apply(self.safe, self.safe_size, change)
        self.changes.clear()

    def copy(self) -> "_Node":
        node = _Node(bytearray(self.safe), self.safe_size)
        for change in self.changes:
            node.change(change)
        return node


def _apply(data: bytearray, size: int, change: Write) -> int:
    """The file's length afterwards; what was never written is left out of `data` at its end."""
    if change.data is None:
        return change.offset
    if change.offset > len(data):
        data.extend(bytes(change.offset - len(data)))
    data[change.offset : change.offset + len(change.data)] = change.data
    return max(size, change.offset + len(change.data))


Entry = _Node | None  # None: a folder
Change = tuple[str, Entry, bool]  # a path, what it names, whether it is there from now on


class _SimFile:
    def __init__(self, disk: "SimDisk", path: str, node: _Node) -> None:
        self._disk, self._path, self._node = disk, path, node

    def read(self, offset: int, size: int) -> bytes:
        found = bytes(self._node.now[offset : offset + size])
        return found + bytes(max(0, min(size, self._node.size - offset)) - len(found))

    def write(self, offset: int, data: bytes) -> None:
        self._disk.on_event("write", self._path)
        fault = self._disk.faults.due(WRITE, self._path)
        size = len(data) if fault is None else len(data) // 2 if fault.half else 0
        if size:
            with self._disk.lock:
                self._node.change(Write(offset, bytes(data[:size])))
        if fault:
            raise fault.error()

    def sync(self) -> None:
        self._disk.on_event("sync", self._path)
        fault = self._disk.faults.due(SYNC, self._path)
        self._disk.faults.may_sync.wait()
        with self._disk.lock:
            if fault:
                self._node.changes.clear()  # as Linux does: the pages are clean now, and were never written
                raise fault.error()
            self._node.sync()

    def reserve(self, offset: int, size: int) -> None:
        del offset
        self._disk.faults.reserve(self._path, size)

    def data(self, offset: int) -> list[tuple[int, int]]:
        return [(offset, len(self._node.now))] if offset < len(self._node.now) else []

    def close(self) -> None:
        pass


class SimDisk:
    """See rmq_store.disk.Disk. It outlives the process: another broker may be opened on it after a kill."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.on_event: Callable[[str, str], None] = lambda operation, path: None
        self.lock = threading.RLock()
        self._entries: dict[str, Entry] = {"": None}
        self._safe: dict[str, Entry] = {"": None}
        self._changes: list[Change] = []

    # -- Disk --------------------------------------------------------------------------------------------------------

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        """See Disk.open; the steps of RealDisk, each of them an event."""
        del mapped
        self.faults.check(OPEN, path)
        with self.lock:
            node = self._entries.get(path)
            if node is None:
                node = self._create(path, size)
            elif node.size < size:
                self._complete(path, node, size)
        return _SimFile(self, path, node)

    def _create(self, path: str, size: int) -> _Node:
        folders = [folder for folder in _folders(path) if folder not in self._entries]
        self.on_event("create", path)
        for folder in folders:
            self._change(folder, None, there=True)
        for folder in folders:
            self._sync_folder(_parent(folder))
        node = _Node(bytearray(), 0)
        self._change(path, node, there=True)
        self._complete(path, node, size)
        return node

    def _complete(self, path: str, node: _Node, size: int) -> None:
        self.on_event("truncate", path)
        node.change(Write(size, None))
        self.on_event("sync", path)
        node.sync()
        self._sync_folder(_parent(path))

    def size(self, path: str) -> int | None:
        """See Disk.size."""
        node = self._entries.get(path)
        return None if node is None else node.size

    def list(self, folder: str) -> list[str]:
        """See Disk.list."""
        return sorted(path.rpartition("/")[2] for path in list(self._entries) if path and _parent(path) == folder)

    def remove(self, path: str) -> None:
        """See Disk.remove."""
        self.faults.check(REMOVE, path)
        self.on_event("remove", path)
        with self.lock:
            if path in self._entries:
                self._change(path, self._entries[path], there=False)
            for folder in (_parent(path), _parent(_parent(path))):
                if not folder or folder not in self._entries or self.list(folder):
                    return
                self._change(folder, None, there=False)

    def sync_folder(self, folder: str) -> None:
        """See Disk.sync_folder."""
        self.faults.check(FOLDER_SYNC, folder)
        self._sync_folder(folder)

    def _sync_folder(self, folder: str) -> None:
        self.on_event("sync_folder", folder)
        with self.lock:
            for change in self._changes:
                if _parent(change[0]) == folder:
                    _enter(self._safe, change)
            self._changes = [change for change in self._changes if _parent(change[0]) != folder]

    def free_bytes(self) -> int:
        """See Disk.free_bytes."""
        return self.faults.room_bytes

    def _change(self, path: str, entry: Entry, *, there: bool) -> None:
        change = path, entry, there
        self._changes.append(change)
        _enter(self._entries, change)

    # -- what a crash leaves -----------------------------------------------------------------------------------------

    def frozen(self) -> "SimDisk":
        """A copy: what was synced, and what was not, as of now."""
        copies: dict[int, _Node] = {}

        def copy(entry: Entry) -> Entry:
            return None if entry is None else copies.setdefault(id(entry), entry.copy())

        disk = SimDisk()
        with self.lock:
            disk._entries = {path: copy(entry) for path, entry in self._entries.items()}
            disk._safe = {path: copy(entry) for path, entry in self._safe.items()}
            disk._changes = [(path, copy(entry), there) for path, entry, there in self._changes]
        return disk

    def flip(self, found: bytes) -> None:
        """One bit of the only place where these bytes are stored: the medium's fault, not ours."""
        (node,) = [node for node in self._entries.values() if node is not None and found in node.now]
        for data in (node.now, node.safe):
            at = data.find(found)
            if at >= 0:
                data[at] ^= 1

    def only_synced(self) -> "SimDisk":
        """The disk after the worst power cut: nothing is there that was not synced."""
        with self.lock:
            return self.after_power_cut(random.Random(0), NOTHING)

    def after_power_cut(self, rng: random.Random, mode: str = "") -> "SimDisk":
        """One of the disks that may be found after the power was cut now; of one of `MODES`, or of any."""
        mode = mode or rng.choice(MODES)
        share = rng.random()
        entries = dict(self._safe)
        for path in dict.fromkeys(change[0] for change in self._changes):
            mine = [change for change in self._changes if change[0] == path]
            count = {NOTHING: 0, EVERYTHING: len(mine)}.get(mode, rng.randint(0, len(mine)))
            for change in mine[:count]:
                _enter(entries, change)
        disk = SimDisk()
        for path, entry in sorted(entries.items()):
            if all(folder in entries for folder in _folders(path)):
                disk._entries[path] = None if entry is None else _survivor(entry, mode, share, rng)
        disk._safe = dict(disk._entries)
        return disk


def _enter(entries: dict[str, Entry], change: Change) -> None:
    path, entry, there = change
    if there:
        entries[path] = entry
    else:
        entries.pop(path, None)


def _survivor(node: _Node, mode: str, share: float, rng: random.Random) -> _Node:
    """What becomes of a file; `share` of the sectors reach the disk."""
    data, size = bytearray(node.safe), node.safe_size
    pieces: list[Write] = []
    if mode == EVERYTHING:
        pieces = node.changes
    elif mode == IN_ORDER and node.changes:
        count = rng.randrange(len(node.changes))
        pieces = [*node.changes[:count], *_sectors(node.changes[count])[: rng.randint(0, 8)]]
    elif mode == SECTORS:
        pieces = [piece for change in node.changes for piece in _sectors(change) if rng.random() < share]
    for piece in pieces:
        size = _apply(data, size, piece)
    return _Node(data, size)


def _sectors(change: Write) -> list[Write]:
    """A write in pieces that reach the disk whole or not at all."""
    offset, data = change
    if data is None:
        return [change]
    cuts = [offset, *range(offset - offset % SECTOR_BYTES + SECTOR_BYTES, offset + len(data), SECTOR_BYTES)]
    return [
        Write(start, data[start - offset : end - offset])
        for start, end in zip(cuts, [*cuts[1:], offset + len(data)], strict=True)
    ]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _folders(path: str) -> list[str]:
    """All above a path but the root, the nearest first."""
    above = []
    while path := _parent(path):
        above.append(path)
    return above
