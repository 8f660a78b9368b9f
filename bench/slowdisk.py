"""`python -m bench.slowdisk MS serve ...`: `rmq serve` on a disk whose every fsync takes MS milliseconds longer.

The thread that syncs sleeps, as it would on a slower disk; nothing else is different.
"""

import sys
import time
from collections.abc import Sequence

from rmq import cli
from rmq_store import disk


def slow_down(fsync_ms: float) -> None:
    """From now on, in this process."""
    sync = disk._RealFile.sync

    def slow(file: disk._RealFile) -> None:
        time.sleep(fsync_ms / 1000)
        sync(file)

    setattr(disk._RealFile, "sync", slow)  # noqa: B010


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    slow_down(float(arguments[0]))
    return cli.run(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
