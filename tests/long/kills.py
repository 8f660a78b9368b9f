"""Campaign `kills`: servers that die by SIGKILL in use and while they start, 1,000 times per profile (tests/crash)."""

from collections.abc import Mapping

from tests.crash.runner import kill_often

ROUNDS = 100
KILLS = 10  # a round, for each profile


def run(seed: int) -> Mapping[str, int]:
    """A store of each profile; raises with what was broken."""
    return {
        f"{flush}_{name}": count
        for flush in ("durable", "fast")
        for name, count in kill_often(flush, seed, KILLS).items()
    }
