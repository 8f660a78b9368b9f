"""The servers that are measured: rmq of this checkout, and Apache RocketMQ. Both behave alike here.

A server owns its processes and its folder. It runs on one core, on free ports of its own, and can be paused: while one
is measured the other is stopped (SIGSTOP), because they share the core. `close` always works: it continues what is
paused before it ends it, and waits for its end.
"""

import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from bench import machine, tools
from bench.tools import BenchError

SOURCE_ROOTS = (".", "store", "proxy", "proto")
READY_S = 60.0
STOP_S = 60.0
APACHE_PORTS = (0, 1, 2, 8, 10, 11)  # of --port-base, see apache.sh
PORTS_BELOW_EPHEMERAL = range(20_000, 32_000)


class Server(Protocol):
    """One running server."""

    name: str
    endpoint: str
    folder: Path
    launched_ns: int
    backlog: int  # messages that wait in the consume load's topic, as far as we know

    @property
    def pids(self) -> list[int]:
        """Its processes."""

    def await_ready(self) -> None:
        """Returns when clients can connect. Raises BenchError."""

    def make_topic(self, topic: str, kind: str) -> None:
        """For messages of `kind` (normal, fifo, delay, transaction), where the server wants that."""

    def make_group(self, group: str) -> None:
        """Likewise a consumer group."""

    def pause(self) -> None:
        """Takes it off the core."""

    def resume(self) -> None:
        """Puts it back; no matter if it is not paused."""

    def stop(self) -> float:
        """SIGTERM; seconds until it has gone. Raises BenchError."""

    def close(self) -> None:
        """Ends it by force, if need be, and removes its folder."""


class Rmq:
    """`rmq serve` of this checkout, with its own choice of profile and transport; `fsync_ms`: see slowdisk.py."""

    name = "rmq"

    def __init__(
        self,
        folder: Path,
        core: int,
        flush: str,
        data: Path | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        fsync_ms: float = 0,
    ) -> None:
        self.folder = folder
        self.backlog = 0
        folder.mkdir(parents=True)
        port = free_port()
        self.endpoint = f"127.0.0.1:{port}"
        flags = ["--port", str(port), "--data", str(data or folder / "data"), "--flush", flush]
        module = ["bench.slowdisk", str(fsync_ms)] if fsync_ms else ["rmq"]
        python = ["taskset", "-c", str(core), sys.executable, "-m", *module]
        command = [*python, "serve", "--log-level", "warning", *flags]
        self.launched_ns = time.time_ns()
        with (folder / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=machine.ROOT,
                env={**rmq_env(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def pids(self) -> list[int]:
        """Taskset becomes the server."""
        return [self.process.pid]

    @property
    def stdout(self) -> IO[bytes]:
        """Carries one line when clients can connect."""
        assert self.process.stdout is not None
        return self.process.stdout

    def await_ready(self) -> None:
        """Waits for its line."""
        if not select.select([self.stdout], [], [], READY_S)[0] or not self.stdout.readline():
            said = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()
            raise BenchError(f"rmq did not start: {(said or ['it said nothing'])[-1]}")

    def make_topic(self, topic: str, kind: str) -> None:
        """Profile dev makes any topic on use."""

    def make_group(self, group: str) -> None:
        """And any group."""

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> float:
        """As a user would."""
        before = time.monotonic()
        self.resume()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"rmq still runs {STOP_S:.0f} s after SIGTERM") from None
        return time.monotonic() - before

    def close(self) -> None:
        """Data elsewhere than in its folder stays."""
        self.process.kill()  # SIGKILL ends a paused process too
        self.process.wait()
        self.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Apache:
    """Name server, broker and proxy in Local mode, by bench/apache/apache.sh."""

    name = "apache"

    def __init__(self, folder: Path, core: int, data: Path | None = None) -> None:
        self.folder = folder
        self.backlog = 0
        folder.mkdir(parents=True)
        self.base = free_base()
        self.endpoint = f"127.0.0.1:{self.base}"
        self.launched_ns = time.time_ns()
        store = ["--store", str(data)] if data else ["--fresh"]
        flags = ["--version", tools.APACHE_VERSION, "--cpus", str(core), "--port-base", str(self.base), *store]
        self.starting = subprocess.Popen(
            [str(tools.APACHE), "start", *flags],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def env(self) -> dict[str, str]:
        """The script's."""
        return {**os.environ, "APACHE_HOME": str(self.folder), "APACHE_LIBS": str(tools.apache_libs())}

    @property
    def pids(self) -> list[int]:
        """Those that have been launched so far."""
        written = [path.read_text().strip() for path in sorted(self.folder.glob("run/*.pid"))]
        return [int(pid) for pid in written if pid]

    def await_ready(self) -> None:
        """Waits for the script."""
        _, said = self.starting.communicate(timeout=300)
        if self.starting.returncode:
            lines = said.decode(errors="replace").strip().splitlines()
            raise BenchError(f"Apache did not start: {(lines or ['it said nothing'])[-1]}")

    def make_topic(self, topic: str, kind: str) -> None:
        """Its proxy has no route for a topic that was not made, and takes only messages of the topic's type."""
        self._admin("updateTopic", "-t", topic, "-r", "8", "-w", "8", "-a", f"+message.type={kind.upper()}")

    def make_group(self, group: str) -> None:
        """Its proxy refuses the settings of a client whose group was not made."""
        self._admin("updateSubGroup", "-g", group)

    def _admin(self, *arguments: str) -> None:
        where = ("-n", f"127.0.0.1:{self.base + 2}", "-c", "DefaultCluster")
        command = [str(tools.APACHE), "admin", *arguments, *where]
        tools.run(command, f"Apache's {arguments[0]} failed", env=self.env)

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):  # it has ended by itself: whoever speaks to it will see that
                os.kill(pid, number)

    def stop(self) -> float:
        """As a user would."""
        before = time.monotonic()
        self.resume()
        tools.run([str(tools.APACHE), "stop"], "Apache did not stop", env=self.env)
        return time.monotonic() - before

    def close(self) -> None:
        """The script first: it may be about to launch something."""
        if self.starting.poll() is None:
            self.starting.kill()
        self.starting.communicate()
        tools.run([str(tools.APACHE), "stop", "--kill9"], "Apache did not stop", env=self.env)
        shutil.rmtree(self.folder, ignore_errors=True)


def rmq_env() -> dict[str, str]:
    """Nobody's settings, and this checkout's sources whatever the environment has installed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RMQ_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(str(machine.ROOT / name) for name in SOURCE_ROOTS)}


def free_port() -> int:
    """One that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def free_base(choose: Callable[[Sequence[int]], int] = secrets.choice) -> int:
    """A base for --port-base with all that follows from it free; outside the range that the system hands out."""
    for _ in range(100):
        base = choose(PORTS_BELOW_EPHEMERAL)
        if all(is_free(base + offset) for offset in APACHE_PORTS):
            return base
    raise BenchError("no free ports between 20000 and 32000")


def is_free(port: int) -> bool:
    """Whether a server could listen there."""
    try:
        with socket.create_server(("", port)):
            return True
    except OSError:
        return False
