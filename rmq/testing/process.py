"""One server process after another: starts it, waits until it is ready, ends or kills it, keeps what it said.

Owns the process and a temporary directory, its working directory. Promises that no wait is unbounded, that the process
ends with the one that started it where its command watches standard input (as `python -m rmq.testing` does), and that
every failure shows what the server said. Knows no settings.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

LOG_SHOWN_CHARS = 16_384
READY_FIELDS = {"pid", "endpoint", "data", "flush", "profile"}
NOT_STARTED = "the rmq server does not run: use `with`, or start()"


class ServerError(Exception):
    """The server did not do what a server does; the text ends with what it said."""


class Process:
    """Lives of one server. `env` is the whole environment."""

    def __init__(self, env: Mapping[str, str], *, ready_within_s: float, stop_within_s: float) -> None:
        self._env = env
        self._ready_within_s = ready_within_s
        self._stop_within_s = stop_within_s
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._end_is_known = False
        self._last_words = ""

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the process. Raises ServerError before the first and after the last life."""
        return self._started().pid

    @property
    def home(self) -> Path:
        """The temporary directory. Raises ServerError outside of `open` to `discard`."""
        if self._home is None:
            raise ServerError(NOT_STARTED)
        return Path(self._home.name)

    @property
    def log(self) -> str:
        """What was written to standard error so far, over all lives; stays after `discard`."""
        return (self.home / "stderr").read_text(errors="replace") if self._home is not None else self._last_words

    def open(self) -> None:
        """Makes the temporary directory, with an empty log."""
        if self._home is None:
            self._home = tempfile.TemporaryDirectory(prefix="rmq-test-")
            (self.home / "stderr").touch()

    def launch(self, command: Sequence[str]) -> None:
        """Begins a life. Raises ServerError where the last one goes on."""
        if self.running:
            raise ServerError("the rmq server runs already: stop() it first")
        self._let_go()
        with (self.home / "stderr").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.home, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self._end_is_known = False

    def until_ready(self) -> Mapping[str, object]:
        """Waits for the one line of a server that is ready, and returns what it says. Raises ServerError."""
        line = self._first_line()
        if not line.endswith(b"\n"):
            code = self.wait(self._stop_within_s)
            raise self.failure(f"the rmq server ended with exit code {code} before it was ready")
        try:
            said: dict[str, object] = json.loads(line)
            complete = said["pid"] == self.pid and set(said) >= READY_FIELDS
        except (ValueError, LookupError, TypeError):
            complete = False
        if not complete:
            raise self.failure(f"what the rmq server says is no line of a server that is ready: {line!r}")
        return said

    def end(self) -> None:
        """SIGTERM: the process has to end in time, with exit code 0 and nothing more on standard output.

        Raises ServerError where it does not, or where it has ended by itself before and nobody waited for that.
        """
        process = self._started()
        if not self.running:
            if not self._end_is_known:
                raise self.failure(f"the rmq server had ended by itself with exit code {process.returncode}")
            return
        process.terminate()
        code = self.wait(self._stop_within_s)
        rest = self._stdout().read()
        expected = 0 if os.name == "posix" else code  # Windows knows no such signal
        if code != expected or rest:
            raise self.failure(f"the rmq server ended with exit code {code} and said {rest!r} on standard output")

    def kill(self) -> None:
        """SIGKILL: no last word."""
        self._started().kill()
        self.wait(self._stop_within_s)

    def wait(self, within_s: float) -> int:
        """Waits for the process to end; its exit code. Raises ServerError where it does not."""
        try:
            code = self._started().wait(within_s)
        except subprocess.TimeoutExpired:
            raise self.failure(f"the rmq server still runs after {within_s:g} s") from None
        self._end_is_known = True
        return code

    def note(self, error: BaseException) -> None:
        """Ends the process, whatever comes of it, and adds what it said to an error that is under way."""
        with suppress(ServerError):
            self.end()  # what it still has to say is part of the log
        error.add_note(f"log of the rmq server:\n{self._log_end()}")

    def discard(self) -> None:
        """Leaves neither a process nor a directory."""
        if self._process is not None:
            self._process.kill()
            self._let_go()
            self._process = None
        if self._home is not None:
            self._last_words = self.log
            self._home.cleanup()
            self._home = None

    def failure(self, text: str) -> ServerError:
        """An error of this server's."""
        return ServerError(f"{text}; its log:\n{self._log_end()}")

    def _first_line(self) -> bytes:
        """A thread reads it: a pipe has no portable wait with a limit."""
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        stdout = self._stdout()
        reader = threading.Thread(target=lambda: lines.put(stdout.readline()), name="rmq-ready", daemon=True)
        reader.start()
        try:
            return lines.get(timeout=self._ready_within_s)
        except queue.Empty:
            self._started().kill()
            reader.join(self._stop_within_s)
            raise self.failure(f"the rmq server was not ready within {self._ready_within_s:g} s") from None

    def _log_end(self) -> str:
        return self.log[-LOG_SHOWN_CHARS:]

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise ServerError(NOT_STARTED)
        return self._process

    def _stdout(self) -> IO[bytes]:
        stdout = self._started().stdout
        assert stdout is not None
        return stdout

    def _let_go(self) -> None:
        """Closes the pipes of a process that has ended."""
        if self._process is not None:
            with self._process:
                pass


def environment() -> Mapping[str, str]:
    """This process's, without RMQ_* and with its sys.path: settings of the shell would change what is tested."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RMQ_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
