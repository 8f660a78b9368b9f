"""A process of a test's own, which never outlives its block: whatever fails, it is ended and its pipes are closed.

A process that a failing test leaves is noticed by a garbage collection much later, in a test that has no part in it.
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import IO

Stream = int | IO[str] | None


@contextmanager
def started(
    command: Sequence[str | PathLike[str]],
    *,
    stdin: Stream = None,
    stdout: Stream = subprocess.PIPE,
    stderr: Stream = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
    cwd: str | PathLike[str] | None = None,
) -> Iterator["subprocess.Popen[str]"]:
    """The process, speaking text; SIGKILL ends at the latest with the block."""
    with subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
