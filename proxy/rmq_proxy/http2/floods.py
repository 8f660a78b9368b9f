"""Counts what a connection sends that makes work and brings nothing, and watches what should move; beyond a limit the
client is told to calm down.
"""

from typing import Final, cast

from rmq_proxy.http2.errors import ErrorCode, PeerError
from rmq_proxy.http2.limits import Limits

RESETS: Final = "resets"
"""Counted in full: a call that is reset costs as much as one that is answered."""

COUNTED: Final = {
    RESETS: "calls were reset",
    "settings": "SETTINGS came",
    "pings": "PINGs came",
    "controls": "frames came that carry nothing",
    "empty_data": "DATA frames were empty",
    "fragments": "DATA frames were tiny",
    "refused": "streams were opened beyond the limit",
    "errors": "streams broke the rules",
}
"""What is counted, in words for the GOAWAY; the limit of each is the field NAME_max of Limits."""


class Floods:
    """The counters of one connection."""

    __slots__ = ("_counts", "_limits", "_since_s", "answered")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._counts: dict[str, int] = {}
        self._since_s: dict[str, float] = {}  # what is watched, and since when
        self.answered = False  # set with each answer: then there was work, and what came with it is forgotten

    def note(self, what: str) -> None:
        """One more. Raises PeerError beyond its limit."""
        if self.answered:
            self._counts = {RESETS: self._counts.get(RESETS, 0)}
            self.answered = False
        count = self._counts[what] = self._counts.get(what, 0) + 1
        if count > cast(int, getattr(self._limits, what + "_max")):
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"too many {COUNTED[what]} within a second")

    def tick(self) -> None:
        """A second is over."""
        self._counts.clear()

    def watch(self, what: str, stands: bool, limit_s: float, now_s: float) -> None:
        """At each tick. Raises PeerError where something has stood still for too long."""
        if not stands:
            self._since_s.pop(what, None)
        elif now_s - self._since_s.setdefault(what, now_s) > limit_s:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"{what} did not move for {limit_s:.0f} s")
