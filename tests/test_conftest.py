"""tests/conftest.py itself: whatever a test leaves open is told where it belongs."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import started

pytest_plugins = ["pytester"]

LEAVE = """
import asyncio, socket

def leave():
    one = socket.socket()
    cycle = [one]
    cycle.append(cycle)
    return cycle
"""
FAILS = f"{LEAVE}\ndef test_fails():\n    kept = leave()\n    assert not kept\n"
LEAVES = f"{LEAVE}\ndef test_leaves():\n    leave()\n"
COLLECTS = "import gc\n\ndef test_innocent():\n    gc.collect()\n"


ASKS = """
import subprocess, sys

def test_it():
    ask = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.check_output([sys.executable, "-c", ask]) == b"True\\n"
"""


def run(pytester: pytest.Pytester, **files: str) -> pytest.RunResult:
    """A pytest of its own, with our conftest.py and our filter of warnings."""
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile(**files)
    return pytester.runpytest_subprocess("-Werror", "-p", "no:cacheprovider", "-ra", timeout=300)


def test_what_a_failed_test_leaves_open_fails_no_other(pytester: pytest.Pytester) -> None:
    """Not the next in its file, nor one of the next file: the one failure is what went wrong."""
    result = run(pytester, test_a=FAILS + COLLECTS, test_b=COLLECTS)
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["FAILED test_a.py::test_fails*"])


def test_what_a_file_leaves_open_is_an_error_of_that_file(pytester: pytest.Pytester) -> None:
    """Behind its last test, where the test that did it passed; not in the next file, where garbage is collected."""
    result = run(pytester, test_a=LEAVES, test_b=COLLECTS)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ResourceWarning: unclosed <socket.socket*", "ERROR test_a.py::test_leaves*"])


def test_sigint_is_not_ignored_even_if_the_tests_run_in_the_background(pytester: pytest.Pytester) -> None:
    """As a shell's job, or under nohup: else no test could send it to a process that has just begun."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = run(pytester, test_a=ASKS)
    finally:
        signal.signal(signal.SIGINT, before)
    result.assert_outcomes(passed=1)


def test_a_process_ends_with_its_block_however_that_ends() -> None:
    """It is waited for, and its pipes are closed."""
    with pytest.raises(ZeroDivisionError), started([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        raise ZeroDivisionError
    assert process.returncode is not None
    assert [pipe.closed for pipe in (process.stdin, process.stdout, process.stderr) if pipe] == [True] * 3
