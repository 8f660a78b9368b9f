"""Logging to standard error: one line a record, for people or as JSON.

Promises that logging never blocks the caller: a thread writes, and where standard error takes no more (a pipe that
nobody reads), records beyond RECORDS_WAITING_MAX are dropped and counted. Does not decide what is logged.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import msgspec

RECORDS_WAITING_MAX = 10_000
CLOSE_WAIT_S = 0.2


class TextFormatter(logging.Formatter):
    """`2026-11-24T06:15:00.123Z INFO rmq.node: what happened`; line breaks are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        line = f"{_time_text(record)} {record.levelname} {record.name}: {record.getMessage()}"
        return (line + _trace(self, record)).replace("\r", "\\r").replace("\n", "\\n")


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "text"}, and "error" with the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        fields = {
            "time": _time_text(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        trace = _trace(self, record)
        return msgspec.json.encode({**fields, "error": trace.strip()} if trace else fields).decode()


def _time_text(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return f"\n{formatter.formatException(record.exc_info)}" if record.exc_info and record.exc_info[0] else ""


class Pump(logging.Handler):
    """Formats in the caller, writes in a thread of its own."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter, waiting_max: int = RECORDS_WAITING_MAX) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._waiting_max = waiting_max
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the record's line, or counts it as dropped."""
        if self._lines.qsize() >= self._waiting_max:
            self._dropped += 1
            return
        self._tell_dropped()
        self._lines.put(self.format(record))

    def close(self) -> None:
        """Waits at most CLOSE_WAIT_S for what is queued to be written."""
        self._tell_dropped()
        self._lines.put(None)
        self._thread.join(CLOSE_WAIT_S)
        super().close()

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._lines.put(f"... {self._dropped} records dropped: standard error did not take them in time")
            self._dropped = 0

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(f"{line}\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                return  # standard error is gone, and there is no other place to say so


@contextmanager
def logging_to(stream: TextIO, log_format: str, level: str) -> Iterator[None]:
    """Sends every logger's records to `stream` while the block runs."""
    formatter: logging.Formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    root = logging.getLogger()
    before = root.level
    pump = Pump(stream, formatter)
    root.addHandler(pump)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(pump)
        pump.close()
