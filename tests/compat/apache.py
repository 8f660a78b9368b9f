"""A real Apache broker on a directory, and the official Java client of the same version to look at it.

Owns their processes: no broker outlives the `with` block, no wait is unbounded. Jars and the compiled reader stay in
the tests' cache (tests/clients/builders.py); what can't be had here is UnavailableError. Its verbs are in Reader.java.
"""

import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.clients.builders import UnavailableError, cache, fetch, run

SCRIPT = Path(__file__).parents[2] / "bench" / "apache" / "apache.sh"
READER = Path(__file__).parent / "reader"
START_S = 240
STOP_S = 120
ASK_S = 180
_PORTS = (0, 1, 2, 8, 10, 11)  # apache.sh: what it takes from its base on
_TRIES = 100

Line = dict[str, Any]


def free_base() -> int:
    """A first port such that all that a broker needs are free now."""
    for _ in range(_TRIES):
        base = random.randrange(20_000, 32_000, 20)
        if all(_is_free(base + port) for port in _PORTS):
            return base
    raise AssertionError("no free ports for an Apache broker")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def ready_reader(version: str) -> str:
    """Class path of the reader compiled with that version's client, built now if it never was. Raises
    UnavailableError.
    """
    missing = [tool for tool in ("java", "javac", "mvn") if shutil.which(tool) is None]
    if missing:
        raise UnavailableError(f"no {' and no '.join(missing)} on PATH")
    sources = sorted(path for path in READER.rglob("*") if path.suffix in (".xml", ".java"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    target = cache() / f"reader-{version}-{digest}"
    if not target.exists():
        _build_reader(version, target)
    return f"{target}/classes:{target}/lib/*"


def _build_reader(version: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as made:
        built = Path(made) / "built"
        pinned = (f"-Drocketmq.version={version}", "-DincludeScope=runtime", f"-DoutputDirectory={built}/lib")
        fetch("mvn", "-q", "-B", "-f", str(READER / "pom.xml"), "dependency:copy-dependencies", *pinned, cwd=Path(made))
        source = READER / "src" / "main" / "java" / "compat" / "Reader.java"
        javac = ("javac", "-nowarn", "-Xlint:none", "--release", "11", "-cp", f"{built}/lib/*")
        run(*javac, "-d", f"{built}/classes", str(source), cwd=Path(made))
        built.rename(target)


UNREACHED, UNREACHED_MAX = "RemotingSendRequestException", 3
"""A client that finds its name server busy gives up at once, before it has done anything: it is started again."""


class Apache:
    """A broker of `version` on the store in `data`; `extra` are lines of its broker.conf."""

    def __init__(self, version: str, data: Path, home: Path, *extra: str) -> None:
        """Raises UnavailableError."""
        self.version = version
        self._data = data
        self._extra = r"\n".join(extra)
        self._home = home
        self._base = free_base()
        self._classes = ready_reader(version)
        self._env = {**os.environ, "APACHE_HOME": str(home), "APACHE_LIBS": str(cache() / "apache")}
        fetch(str(SCRIPT), "fetch", "--version", version, cwd=SCRIPT.parent, env=self._env)

    def __enter__(self) -> Self:
        try:
            ports = ("--port-base", str(self._base))
            self._run(
                START_S, "start", "--version", self.version, "--store", str(self._data), *ports, "--extra", self._extra
            )
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM, and waits for its end; nothing happens where it has ended."""
        self._run(STOP_S, "stop")

    def _run(self, within_s: float, *arguments: str) -> None:
        log = self._home / "apache.out"  # a file: the servers inherit it, and a pipe would stay open with them
        self._home.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            done = subprocess.run(
                (SCRIPT, *arguments), env=self._env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=within_s,
                check=False,
            )  # fmt: skip
        assert done.returncode == 0, log.read_text(errors="replace")[-4000:]

    def ask(self, verb: str, *arguments: str) -> list[Line]:
        """What the Java client says, a dict a line."""
        jvm = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Duser.home={self._home}")
        names = f"127.0.0.1:{self._base + 2}"
        command = ("java", *jvm, "-cp", self._classes, "compat.Reader", verb, names, *arguments)
        for _ in range(UNREACHED_MAX):
            done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False, cwd=self._home)
            if done.returncode == 0 or UNREACHED not in done.stderr:
                break
        assert done.returncode == 0, (done.stdout[-1000:], done.stderr[-4000:])
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
