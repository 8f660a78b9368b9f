"""kill -9 in the middle of everything, with both profiles that keep messages: nothing acknowledged is missing."""

import asyncio
import random

import pytest

from tests.crash.plans import SETTLE
from tests.crash.points import POINTS
from tests.crash.runner import Campaign, Death, kill_at_each_point
from tests.history.checker import UNDONE
from tests.long import kills

pytestmark = pytest.mark.crash


def some_seed() -> int:
    """Another one each time; a failure shows it."""
    return random.SystemRandom().getrandbits(32)


def test_what_was_acknowledged_survives_kills() -> None:
    """One round of the campaign: sends, receives, acks, dead letters, retention and starts are killed at random moments
    and points; then every message is there, as sent, once settled for ever.

    Only a process's end is tried here: what a power cut takes is another matter.
    """
    counts = kills.run(some_seed())
    print(counts)
    for flush in ("durable", "fast"):
        assert counts[f"{flush}_kills"] == kills.KILLS
        assert counts[f"{flush}_sent"] > 50
        assert counts[f"{flush}_acked"] > 50


@pytest.mark.parametrize("flush", ["durable", "fast"])
def test_each_named_point_is_survived(flush: str) -> None:
    """One life for each, which the server ends by itself before, in or after the step."""
    counts = kill_at_each_point(flush, some_seed())
    missed = [name for name in POINTS if f"point_{name.replace(' ', '_')}" not in counts]
    assert not missed
    assert counts["delayed"] > 20
    assert counts["recalled"] > 0
    assert counts["grouped"] > 20
    assert min(counts["committed"], counts["rolled_back"]) > 20


def test_a_planted_bug_is_found_by_kills() -> None:
    """The clients, the lives and the checker are no decoration: a server that forgets its journal is found out."""
    campaign = Campaign("fast", random.Random(some_seed()), plant="forget the journal")
    deaths = [Death(SETTLE, 0.5) for _ in range(3)]
    problems = asyncio.run(campaign.run(deaths, campaign.settings()))
    assert UNDONE in {problem.kind for problem in problems}
