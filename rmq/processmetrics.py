"""What the process tells a scrape about itself, under the names that Prometheus' client libraries use."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rmq.metrics import Exposition

PROC = Path("/proc/self")


class ProcessMetrics:
    """A metrics.Source. Memory and file handles are told where the system has /proc."""

    def __init__(self, started_s: float, proc: Path = PROC) -> None:
        """`started_s`: since 1970."""
        self._started_s = started_s
        self._proc = proc

    def __call__(self, page: Exposition) -> Iterator[None]:
        """See metrics.Source."""
        used = os.times()
        page.value("process_start_time_seconds", "gauge", "When the server started, since 1970.", self._started_s)
        page.value(
            "process_cpu_seconds_total", "counter", "CPU time, user and system.", round(used.user + used.system, 2)
        )
        resident = page.family("process_resident_memory_bytes", "gauge", "Memory that is not swapped out or unused.")
        virtual = page.family("process_virtual_memory_bytes", "gauge", "Address space.")
        files = page.family("process_open_fds", "gauge", "Open file handles.")
        files_max = page.family("process_max_fds", "gauge", "How many file handles the process may have.")
        if self._proc.is_dir():
            page_bytes = os.sysconf("SC_PAGE_SIZE")
            pages = (self._proc / "statm").read_text().split()
            virtual.add(int(pages[0]) * page_bytes)
            resident.add(int(pages[1]) * page_bytes)
            files.add(_count(self._proc / "fd"))
            for found in re.findall(r"^Max open files +(\d+)", (self._proc / "limits").read_text(), re.MULTILINE):
                files_max.add(int(found))
        yield


def _count(folder: Path) -> int:
    """How many entries; Linux tells it as the folder's size since 6.2, and listing 20,000 of them takes 10 ms."""
    return folder.stat().st_size or len(os.listdir(folder))
