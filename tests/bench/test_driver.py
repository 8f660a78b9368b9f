"""What the load generator says, and what the machine did meanwhile."""

import os
import sys
from pathlib import Path

import pytest

from bench import driver, machine
from bench.tools import BenchError
from tests.bench.fakes import FakeServer

LINE = '{"cmd":"send","label":"","drained":true,"per_sec":[1,2],"send_call_ms":{"p50":0.5},"sent":7}'


def test_the_last_line_is_read_and_nested_numbers_keep_their_path() -> None:
    """Text and lists are left out; a truth counts as one."""
    assert driver.parse(f"some warning\n{LINE}\n", "send") == {"drained": 1.0, "send_call_ms.p50": 0.5, "sent": 7.0}


def test_errors_keep_their_text_wherever_they_are() -> None:
    """So that the table can show one."""
    nested = '{"errors":0,"recv_errors":{"errors":2,"error_samples":{"AckMessage code:X":2}}}'
    expected = {"errors": 0.0, "recv_errors.errors": 2.0, "errors: AckMessage code:X": 2.0}
    assert driver.parse(nested, "both") == expected


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ('{"failed":"QueryRoute: refused"}', "send on rmq: QueryRoute: refused"),
        ("panic: oh\n", "send on rmq: not a line of JSON: 'panic: oh'"),
        ("", "send on rmq: not a line of JSON: ''"),
    ],
)
def test_a_failure_is_one_line(output: str, said: str) -> None:
    """Whatever the program printed."""
    with pytest.raises(BenchError) as caught:
        driver.parse(output, "send on rmq")
    assert str(caught.value) == said


def script(folder: Path, text: str) -> Path:
    """A load generator."""
    path = folder / "loadgen"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_run_has_the_numbers_of_both_sides(tmp_path: Path) -> None:
    """Flags in the load generator's spelling, the server's processes, its memory afterwards, steal and others."""
    program = script(tmp_path, 'echo "$@" > "$0.args"; echo \'{"sent":1}\'')
    got = driver.run(program, machine.cores()[1], FakeServer([os.getpid()]), "send", 5.0, delay_min="1s", n=3)
    assert (tmp_path / "loadgen.args").read_text().split() == [
        *("send", "--endpoint=127.0.0.1:1", f"--pids={os.getpid()}", "--delay-min=1s", "--n=3")
    ]
    assert set(got) == {"sent", "resident_mib", "anonymous_mib", "steal_pct", "others_pct"}
    assert 1 < got["anonymous_mib"] <= got["resident_mib"]


def test_a_load_generator_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that it has started."""
    monkeypatch.setattr(driver, "SLACK_S", 0.0)
    program = script(tmp_path, f'echo $$ > "$0.pid"; {sys.executable} -c "import time; time.sleep(60)"')
    with pytest.raises(BenchError, match="send is still running after 0 s"):
        driver.run(program, machine.cores()[1], FakeServer([]), "send", 0.3)
    pid = int((tmp_path / "loadgen.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_busy_counters_are_told_apart() -> None:
    """Ticks are hundredths of a second: 2 s of 100 stolen, and of 10 s busy 4 were ours."""
    before = machine.Busy.parse("cpu 0 0 0 0 0 0 0 0 0 0")
    after = machine.Busy.parse("cpu 600 100 200 8400 400 50 50 200 7 7")
    got = after.since(before, ours_s=4.0)
    assert got["steal_pct"] == pytest.approx(2.0)
    assert got["others_pct"] == pytest.approx(100 * 6.0 / (100.0 / (os.cpu_count() or 1)))
