"""What the process tells of itself."""

import os
import stat
from pathlib import Path

import pytest

from rmq.processmetrics import ProcessMetrics
from tests.scraping import samples, told


def test_where_the_system_tells() -> None:
    """Memory, CPU, file handles: of this process, and plausible."""
    found = samples(told(ProcessMetrics(1_700_000_000.5)))
    assert found["process_start_time_seconds"] == 1_700_000_000.5
    assert found["process_cpu_seconds_total"] > 0
    if Path("/proc/self").is_dir():
        assert 1 << 20 < found["process_resident_memory_bytes"] < found["process_virtual_memory_bytes"]
        assert 2 < found["process_open_fds"] <= found["process_max_fds"]


def test_where_the_system_does_not_tell(tmp_path: Path) -> None:
    """The families are there, without a sample."""
    text = told(ProcessMetrics(1.0, tmp_path / "none"))
    assert "# TYPE process_open_fds gauge\n" in text
    assert set(samples(text)) == {"process_start_time_seconds", "process_cpu_seconds_total"}


def test_an_older_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.2 a folder of /proc has no size: file handles are counted; and one may have no limit of them."""
    (tmp_path / "statm").write_text("300 200 1 1 0 1 0\n")
    (tmp_path / "limits").write_text("Max open files            unlimited            unlimited            files\n")
    (tmp_path / "fd").mkdir()
    for number in range(3):
        (tmp_path / "fd" / str(number)).touch()
    sizeless = os.stat_result((stat.S_IFDIR, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda path, **options: sizeless)
    found = samples(told(ProcessMetrics(1.0, tmp_path)))
    assert found["process_resident_memory_bytes"] == 200 * os.sysconf("SC_PAGE_SIZE")
    assert found["process_open_fds"] == 3
    assert "process_max_fds" not in found
