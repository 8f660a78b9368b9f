"""Crash images: a quick slice here, `bin/check --long images` for 20,000."""

import pytest

from tests.sim.images import play
from tests.sim.lines import Lined, LinedImage
from tests.sim.transactions import TransactImage, Transacting
from tests.sim.workload import Undelayed


@pytest.mark.parametrize("flush", ["durable", "fast"])
@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.crash) for seed in (4, 5))])
def test_all_promises_hold_in_every_crash_image(seed: int, flush: str) -> None:
    """Killed or without power at any step of the disk, with any checkpoint: what was answered is so, and nothing else.

    The seeds are fixed: this is a slice of the campaign, and fails only where something changed.
    """
    counts = play(seed, flush, images=30)
    assert counts.total() == 30


@pytest.mark.parametrize("flush", ["durable", "fast"])
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_transactions_are_what_their_producers_know_in_every_crash_image(seed: int, flush: str) -> None:
    """Begun and ended among all the rest."""
    counts = play(seed, flush, images=30, workload=Transacting, image_of=TransactImage)
    assert counts.total() == 30


@pytest.mark.parametrize("flush", ["durable", "fast"])
@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.crash) for seed in (4, 7))])
def test_lines_priorities_and_lite_topics_outlast_every_crash_image(seed: int, flush: str) -> None:
    """Order, early acks, subscriptions and places. The seeds lost messages of parked lines and of lite topics once."""
    counts = play(seed, flush, images=30, workload=Lined, image_of=LinedImage)
    assert counts.total() == 30


@pytest.mark.crash
@pytest.mark.parametrize(
    ("seed", "flush"), [(1, "durable"), (2, "fast"), (6, "fast"), (14, "fast"), (26, "fast"), (60219461637762, "fast")]
)
def test_what_once_went_wrong_stays_right(seed: int, flush: str) -> None:
    """Seeds that lost messages: cursors that outlasted what they had passed, segments that went too early."""
    assert play(seed, flush, images=40, workload=Undelayed).total() == 40
