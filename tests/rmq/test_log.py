"""Logging: one line a record, and never in the way."""

import io
import json
import logging
import threading
from typing import TextIO

import pytest

from rmq.log import JsonFormatter, Pump, TextFormatter, logging_to

LOGGER = logging.getLogger("rmq.test")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not lose the lines that a test looks at."""
    monkeypatch.setattr("rmq.log.CLOSE_WAIT_S", 10.0)


def logged(log_format: str, level: str = "info") -> list[str]:
    """Three records, one of them with line breaks and a traceback, as lines."""
    stream = io.StringIO()
    with logging_to(stream, log_format, level):
        LOGGER.info("started on %s", "port 1")
        LOGGER.debug("a detail")
        try:
            raise ValueError("two\nlines")
        except ValueError:
            LOGGER.exception("bad\r\nthing")
    return stream.getvalue().splitlines()


def test_text_is_one_line_a_record() -> None:
    """Time, level, logger, text; a traceback stays in its record's line."""
    first, second = logged("text")
    assert first.endswith("Z INFO rmq.test: started on port 1")
    assert r"Z ERROR rmq.test: bad\r\nthing\nTraceback" in second
    assert second.endswith(r"ValueError: two\nlines")


def test_json_is_one_object_a_record() -> None:
    """The same, to be read by programs; times are UTC with milliseconds."""
    first, second = map(json.loads, logged("json"))
    assert {key: first[key] for key in ("level", "logger", "text")} == {
        "level": "info",
        "logger": "rmq.test",
        "text": "started on port 1",
    }
    assert len(first["time"]) == len("2026-11-24T06:15:00.123Z")
    assert "error" not in first
    assert second["error"].endswith("ValueError: two\nlines")


def test_level_decides_what_is_logged() -> None:
    """At debug the detail shows, at error the start is hidden; the level before is restored."""
    before = logging.getLogger().level
    assert len(logged("text", "debug")) == 3
    assert len(logged("text", "error")) == 1
    assert logging.getLogger().level == before


class StuckStream(io.StringIO):
    """Takes nothing until it is let go, as a pipe does that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def write(self, text: str) -> int:
        """As of any stream, later."""
        assert self.free.wait(30)
        return super().write(text)


def test_a_stream_that_takes_nothing_holds_nobody_up() -> None:
    """The caller goes on, the queue stays bounded, and what was lost is counted where it is missing."""
    stream = StuckStream()
    pump = Pump(stream, TextFormatter(), waiting_max=100)
    record = logging.LogRecord("n", logging.INFO, "", 0, "text", None, None)
    for _ in range(1000):
        pump.emit(record)
    stream.free.set()
    pump.close()
    *lines, last = stream.getvalue().splitlines()
    assert 100 <= len(lines) <= 101  # one more where the thread had already taken the first
    assert last == f"... {1000 - len(lines)} records dropped: standard error did not take them in time"


def test_a_closed_standard_error_is_no_error() -> None:
    """There is no other place to complain; the server goes on."""
    stream: TextIO = io.StringIO()
    stream.close()
    pump = Pump(stream, JsonFormatter())
    pump.emit(logging.LogRecord("n", logging.INFO, "", 0, "lost", None, None))
    pump.close()
    pump.emit(logging.LogRecord("n", logging.INFO, "", 0, "lost as well", None, None))
