"""What a measurement is of (commit, source, machine) and what else ran meanwhile.

Reads git and /proc; changes nothing. Times are seconds, memory is bytes unless a name says MiB.
"""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("rmq", "store", "proxy", "proto", "config.yaml", "pyproject.toml", "bench/loadgen")  # both sides
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def commit(root: Path = ROOT) -> tuple[str, bool]:
    """The commit's id, and whether what is measured differs from it; "none" outside a repository."""
    head = _git(root, "rev-parse", "HEAD") or "none"
    return head, bool(_git(root, "status", "--porcelain", "--", *SOURCE))


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()


def source_hash(root: Path = ROOT) -> str:
    """Tells apart two states of the code that have the same commit."""
    return hash_of(files(root / name for name in SOURCE), root)


def files(places: Iterable[Path]) -> Iterator[Path]:
    """The files at or below each place, in a fixed order, without what Python leaves behind."""
    for place in places:
        found = [place] if place.is_file() else sorted(place.rglob("*"))
        yield from (path for path in found if path.is_file() and "__pycache__" not in path.parts)


def hash_of(paths: Iterable[Path], root: Path) -> str:
    """16 hexadecimal digits over the names and the content."""
    digest = hashlib.sha256()
    for path in paths:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def describe() -> dict[str, object]:
    """The machine, for the result file."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": int((_field(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _field(path: Path, name: str) -> str:
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def cores() -> tuple[int, int]:
    """The server's core and the client's: the first two that we may use; the same one twice if there is but one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[min(1, len(allowed) - 1)]


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that the processes have used; one that has gone counts as none."""
    return sum(_cpu_s(pid) for pid in pids)


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK_S


def memory_mib(pids: Iterable[int]) -> dict[str, float]:
    """Resident memory, and the part of it that is the processes' own: not pages of files that they have mapped."""
    resident_kib = anonymous_kib = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status")
        resident_kib += int((_field(status, "VmRSS:") or "0").split()[0])
        anonymous_kib += int((_field(status, "RssAnon:") or "0").split()[0])
    return {"resident_mib": resident_kib / 1024, "anonymous_mib": anonymous_kib / 1024}


@dataclass(frozen=True)
class Busy:
    """The machine's counters since it started, in CPU seconds over all cores."""

    total: float
    busy: float
    steal: float

    @classmethod
    def now(cls) -> "Busy":
        """Reads them."""
        with open("/proc/stat") as stat:
            return cls.parse(stat.readline())

    @classmethod
    def parse(cls, line: str) -> "Busy":
        """`line`: cpu user nice system idle iowait irq softirq steal ..., in ticks (proc(5))."""
        user, nice, system, idle, iowait, irq, softirq, steal = (int(field) * TICK_S for field in line.split()[1:9])
        busy = user + nice + system + irq + softirq
        return cls(busy + idle + iowait + steal, busy, steal)

    def since(self, earlier: "Busy", ours_s: float) -> dict[str, float]:
        """Steal in percent of all cores; in percent of one core, what neither our servers nor our client used."""
        total = max(self.total - earlier.total, TICK_S)
        wall = total / max(os.cpu_count() or 1, 1)
        others = max(self.busy - earlier.busy - ours_s, 0.0)
        return {"steal_pct": 100 * (self.steal - earlier.steal) / total, "others_pct": 100 * others / wall}
