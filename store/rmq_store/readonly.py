"""A data directory for reading only: nothing is made, nothing is written, a store in use is left alone.

Every file is opened for reading, so that the system itself holds us to it. The lock is shared while it is held:
several may read at once, a server does not start meanwhile, and where one runs SharedLock refuses.
"""

import contextlib
import errno
import os
from pathlib import Path

from rmq_store.disk import File, RealDisk, _RealFile
from rmq_store.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows has none, and a store there has no lock either
    fcntl = None  # type: ignore[assignment]  # the module's absence is the value


class ReadOnlyDisk(RealDisk):
    """Files under a directory that is there; see RealDisk. What would change something does nothing, or fails."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        """Raises OSError where the file is missing."""
        fd = os.open(self.root / path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        return _RealFile(fd, os.fstat(fd).st_size, mapped=mapped)

    def remove(self, path: str) -> None:
        """Stays: a replay says what a server would delete."""

    def sync_folder(self, folder: str) -> None:
        """Nothing was changed."""


class SharedLock:
    """Held while reading. First `rmq/lock`: it tells a store of this very process, whose other lock we would drop."""

    def __init__(self, root: Path) -> None:
        """Raises StoreError where a server, or an Apache broker, has the store open. A copy may lack both files."""
        self._fds: list[int] = []
        try:
            self._share(root / "rmq" / "lock", whole=True)
            self._share(root / "lock", whole=False)
        except OSError as error:
            self.release()
            if error.errno in (errno.EACCES, errno.EAGAIN) and error.filename is None:
                raise StoreError(f"{root} is in use by a server: stop that one, or name a copy") from None
            raise StoreError(f"cannot read {error.filename or root}: {error.strerror}") from None

    def _share(self, path: Path, *, whole: bool) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fds.append(os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
            if fcntl is not None:
                flags = fcntl.LOCK_SH | fcntl.LOCK_NB
                fcntl.flock(self._fds[-1], flags) if whole else fcntl.lockf(self._fds[-1], flags, 1, 0)

    def release(self) -> None:
        """A server may start."""
        while self._fds:
            os.close(self._fds.pop())
