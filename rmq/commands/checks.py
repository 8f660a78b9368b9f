"""The checks of `rmq doctor`: each looks at one thing says what it found and, if need be, what to do.

Only the fsync check writes: one file in the data directory, or in the nearest one above it that is there, removed at
once. Prints nothing; nothing that was found wrong is repaired.
"""

import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from rmq import openfiles, output
from rmq.clock import SystemClock
from rmq.config import GIB, MIB, Config

FSYNCS = 20
FSYNC_BYTES = 4096
FSYNC_SLOW_MS = 20.0  # a send waits for one; at more than that clients with short timeouts notice
MEMORY_MIN_BYTES = 128 * MIB  # resident when idle, and room for some traffic
APACHE_PORTS = {9876: "name server", 10911: "broker", 8080: "proxy"}
APACHE_CLASS = b"org.apache.rocketmq."
CLOCK_UNSYNCHRONISED = 5  # adjtimex: TIME_ERROR
TIMEX_BYTES = 512  # more than struct timex takes anywhere
FIRST_DAY_MS = 1_760_000_000_000  # 2025-10-09: a clock before it was never set


class Finding(NamedTuple):
    """One line."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def run(config: Config) -> Iterator[Finding]:
    """All of them, as they finish."""
    yield system()
    yield port(config)
    yield names()
    yield apache()
    if config.flush != "memory":
        yield data(config)
        yield space(config)
        yield fsync(config)
    yield clock()
    yield files(config)
    yield memory(config)
    yield proxy()


def system() -> Finding:
    """What is tested is Linux."""
    found = f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    if sys.platform != "linux":
        return Finding("system", "warn", found, "rmq is tested on Linux only")
    return Finding("system", "ok", found)


# -- what else runs here -----------------------------------------------------------------------------------------------


def port(config: Config) -> Finding:
    """Free, or served by an rmq already."""
    from rmq_proxy.admin_client import AdminClient, AdminError

    host = config.host if config.host not in ("", "0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  # compared, not bound
    name = f"port {config.port}"
    if config.port == 0:
        return Finding("port", "ok", "a free one is picked")
    try:
        with AdminClient(
            f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}", timeout_s=1.0
        ) as client:
            server = client.describe()
        found = f"rmq {server.version} (process {server.pid}) serves on {name}"
        if server.damaged:
            advice = f"it serves the rest; when it is stopped: rmq store check {server.data}, then rmq store repair"
            return Finding("port", "warn", f"{found}, and found {server.damaged} damaged places in its store", advice)
        return Finding("port", "ok", found)
    except AdminError as error:
        if error.kind == "down":
            return _free(host, config.port, name)
        return Finding(
            "port", "fail", f"{name} is taken: {error.text}", "stop what listens there, or choose another --port"
        )


def _free(host: str, number: int, name: str) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, number))
    except OSError as error:
        return Finding("port", "fail", f"{name} on {host}: {error.strerror}", "choose another --host or --port")
    return Finding("port", "ok", f"{name} is free")


def names() -> Finding:
    """Clients are told `localhost`."""
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo("localhost", 8081, type=socket.SOCK_STREAM)})
    except OSError as error:
        return Finding("names", "warn", f"localhost has no address: {error}", "let clients use 127.0.0.1")
    strange = [address for address in found if not address.startswith("127.") and address != "::1"]
    if strange:
        return Finding("names", "warn", f"localhost is {' and '.join(strange)}", "correct /etc/hosts, or use 127.0.0.1")
    return Finding("names", "ok", f"localhost is {' and '.join(found)}")


def apache() -> Finding:
    """Its proxy has the same default port, and its broker opens the same files."""
    processes = sorted(_apache_processes())
    listening = [f"{number} ({what})" for number, what in APACHE_PORTS.items() if _answers(number)]
    if processes:
        advice = "stop it, or give rmq another --port and --data"
        return Finding("apache", "warn", f"Apache RocketMQ runs: process {', '.join(map(str, processes))}", advice)
    if listening:
        advice = "if that is Apache RocketMQ, mind that both default to port 8081"
        return Finding("apache", "warn", f"something listens on RocketMQ's ports {', '.join(listening)}", advice)
    return Finding("apache", "ok", "no Apache RocketMQ runs here")


def _apache_processes(root: Path = Path("/proc")) -> Iterator[int]:
    """Java processes whose command line names one of its classes; none where there is no /proc."""
    for folder in root.glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended, or is not ours to see
        if words[0].endswith(b"java") and any(word.startswith(APACHE_CLASS) for word in words):
            yield int(folder.name)


def _answers(number: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", number), 0.2):
            return True
    except OSError:
        return False


# -- disk --------------------------------------------------------------------------------------------------------------


def data(config: Config) -> Finding:
    """There or to be made, writable, and whether a server has it."""
    from rmq_store.errors import StoreError
    from rmq_store.readonly import SharedLock

    root = Path(config.data)
    there = _existing(root)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            "data", "fail", f"{there} is no directory to write in", "choose another --data, or change its owner"
        )
    if there != root.absolute():
        return Finding("data", "ok", f"{config.data} is not there yet, a server makes it")
    try:
        SharedLock(root).release()
    except StoreError as error:
        return Finding("data", "warn", str(error))
    return Finding("data", "ok", f"{config.data} can be used")


def _existing(path: Path) -> Path:
    """It, or the nearest above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def space(config: Config) -> Finding:
    """Room for the first reserved steps beyond what has to stay free."""
    free = shutil.disk_usage(_existing(Path(config.data))).free
    needed = config.disk_free_min_bytes + 2 * min(config.reserve_bytes, config.segment_bytes)
    found = f"{output.size(free)} free for {config.data}"
    if free < needed:
        advice = f"sends need {output.size(needed)}: make room, or lower disk_free_min_bytes"
        return Finding("space", "fail", found, advice)
    if free < needed + GIB:
        return Finding("space", "warn", found, f"sends are refused below {output.size(config.disk_free_min_bytes)}")
    return Finding("space", "ok", found)


def fsync(config: Config) -> Finding:
    """How long a send waits with flush: durable."""
    folder = _existing(Path(config.data))
    try:
        median_ms, worst_ms = _fsync_ms(folder, SystemClock().monotonic_s)
    except OSError as error:
        return Finding("fsync", "fail", f"cannot write in {folder}: {error.strerror}", "choose another --data")
    found = f"{median_ms:.2f} ms, at worst {worst_ms:.2f} ms, in {folder}"
    if _kind_of(folder) == "tmpfs":
        return Finding("fsync", "warn", f"{folder} is in memory (tmpfs)", "what is stored there goes with a reboot")
    if median_ms > FSYNC_SLOW_MS:
        advice = "each durable send waits for one: use a faster disk, or --flush fast"
        return Finding("fsync", "warn", found, advice)
    return Finding("fsync", "ok", found)


def _fsync_ms(folder: Path, now_s: Callable[[], float]) -> tuple[float, float]:
    """Median and worst of FSYNCS appends of FSYNC_BYTES. Raises OSError."""
    took_ms = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(FSYNCS):
            os.write(file.fileno(), bytes(FSYNC_BYTES))
            began_s = now_s()
            os.fsync(file.fileno())
            took_ms.append((now_s() - began_s) * 1000)
    took_ms.sort()
    return took_ms[FSYNCS // 2], took_ms[-1]


def _kind_of(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The file system's type, empty where the system does not tell."""
    try:
        rows = [row.split() for row in mounts.read_text().splitlines()]
    except OSError:
        return ""
    above = [(len(row[1]), row[2]) for row in rows if folder.is_relative_to(row[1])]
    return max(above, default=(0, ""))[1]


# -- clock, limits, memory, environment --------------------------------------------------------------------------------


def clock() -> Finding:
    """Delivery times and retention are wall-clock times."""
    now_ms = SystemClock().wall_ms()
    shown = output.moment(now_ms)
    if now_ms < FIRST_DAY_MS:
        return Finding("clock", "fail", f"it is {shown}", "set the clock: messages would be stored in the past")
    if _clock_state() == CLOCK_UNSYNCHRONISED:
        advice = "delayed messages come when this clock says so; run an NTP client where that matters"
        return Finding("clock", "warn", f"{shown}, not synchronised", advice)
    return Finding("clock", "ok", shown)


def _clock_state() -> int:
    """What adjtimex returns; 0 where there is no such call."""
    import ctypes

    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)))
    except (AttributeError, OSError, TypeError):
        return 0


def files(config: Config) -> Finding:
    """Open files, and the size of one."""
    try:
        import resource
    except ImportError:
        return Finding("limits", "ok", "this system has none")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    longest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if config.flush != "memory" and longest != resource.RLIM_INFINITY and longest < config.segment_bytes:
        advice = f"ulimit -f unlimited, or segment_bytes below it (it is {output.size(config.segment_bytes)})"
        return Finding("limits", "fail", f"a file may have {output.size(longest)}", advice)
    if hard == resource.RLIM_INFINITY:
        return Finding("limits", "ok", "no limit of open files")
    wanted = openfiles.wanted(config)
    if hard < wanted:
        settings = f"connections_max ({config.connections_max}) or queue_files_open_max ({config.queue_files_open_max})"
        return Finding("limits", "warn", f"{hard} open files", f"allow {wanted}: ulimit -Hn, or lower {settings}")
    raised = "" if soft >= wanted else f"; a server raises its own limit from {soft}"
    return Finding("limits", "ok", f"{hard} open files{raised}")


def memory(config: Config) -> Finding:
    """What is left for a server: of the machine, or of its control group."""
    left = _memory_left()
    if left is None:
        return Finding("memory", "ok", "this system does not tell")
    needed = MEMORY_MIN_BYTES + (config.memory_bytes_max if config.flush == "memory" else 0)
    found = f"{output.size(left)} available"
    if left < needed:
        return Finding("memory", "warn", found, f"a server may want {output.size(needed)}")
    return Finding("memory", "ok", found)


def _memory_left(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes; None where the system does not tell."""
    try:
        rows = dict(row.split(":", 1) for row in meminfo.read_text().splitlines())
        left = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(left, int(limit) - int(used))
    except (OSError, ValueError):  # no group, or "max"
        return left


def proxy() -> Finding:
    """Clients of gRPC send even calls to localhost through a proxy of the environment."""
    from rmq.commands.env import PROXY_VARIABLES

    found = [name for name in PROXY_VARIABLES if os.environ.get(name)]
    spared = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    if found and "localhost" not in spared and spared.strip() != "*":
        advice = "export no_proxy=localhost,127.0.0.1 for the clients"
        return Finding("proxy", "warn", f"{' and '.join(found)} is set", advice)
    return Finding("proxy", "ok", "localhost is reached directly")
