"""Counts what was found damaged since the start, and says once what to do about it. Finds and mends nothing itself."""

import logging
from pathlib import Path

from rmq_store.recovery import Report

log_ = logging.getLogger("rmq.store")


class Damage:
    """`ranges` of the log that the replay passed over, queue `entries` made anew from the log, `messages` asked for
    that cannot be read (one counts as often as it is asked for); `set_aside_bytes` of an unfinished record behind the
    log's end: no damage, a crash leaves them.
    """

    def __init__(self, root: Path | None) -> None:
        """`root`: of the store, for the advice; None: in memory."""
        self.ranges = 0
        self.entries = 0
        self.messages = 0
        self.set_aside_bytes = 0
        self._root = root

    @property
    def total(self) -> int:
        """All of it, whatever it is."""
        return self.ranges + self.entries + self.messages

    def add_found(self, report: Report) -> None:
        """What the replay has told."""
        self.set_aside_bytes = report.cut_off
        self.add(ranges=len(report.damaged) + bool(report.missing))

    def add(self, *, ranges: int = 0, entries: int = 0, messages: int = 0) -> None:
        """More was found. Advice follows the first; whoever found it has logged what it is."""
        was_whole = self.total == 0
        self.ranges += ranges
        self.entries += entries
        self.messages += messages
        if was_whole and self.total:
            self._advise()

    def _advise(self) -> None:
        folder = self._root or "DIR"
        log_.error(
            "the store is damaged; all that can be read is served. With the server stopped, `rmq store check %s` says "
            "what is damaged, `rmq store repair %s` gives it up; what is lost is in a copy of the store, if anywhere",
            folder,
            folder,
        )
