"""What holds for every test: SIGINT is a signal, a file's tests leave nothing open, a failure is nobody else's.

What is left open is found by a garbage collection, and counted against the test in which that happens to fall. So there
is one behind each file, and one behind each test that failed, whose remains the traceback keeps alive until then.
"""

import gc
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress

import pytest


def pytest_configure() -> None:
    """A shell starts a job of the background with SIGINT ignored, and every process of a test would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    """Files, sockets, loops, processes, coroutines: the file that left one has an error, behind its last test."""
    yield
    gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A failure is enough: what it left open is no failure of the next test."""
    failed_before = item.session.testsfailed
    result = yield
    if item.session.testsfailed > failed_before:
        _forget_the_failure()
    return result


def _forget_the_failure() -> None:
    """Pytest keeps the last traceback for a debugger, and with it all that its frames hold."""
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        with suppress(AttributeError):
            delattr(sys, name)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _unraisable: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
