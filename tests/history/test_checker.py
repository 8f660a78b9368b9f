"""The checker itself: it finds each planted fault, and nothing in a history of a server that keeps its promises."""

import pytest

from tests.history import handmade, ranked
from tests.history.checker import check
from tests.history.handmade import Plant, good, ordered


@pytest.mark.parametrize(("plant", "kind"), [*handmade.PLANTS, *ranked.PLANTS])
def test_finds_what_is_planted(plant: Plant, kind: str) -> None:
    """Each fault under its name, and nothing of another."""
    history = good()
    plant(history)
    assert {problem.kind for problem in check(history)} == {kind}


@pytest.mark.parametrize("allowed", [*handmade.ALLOWED, *ranked.ALLOWED])
def test_accepts_what_is_allowed(allowed: Plant) -> None:
    """At least once, and no certainty about what was cut off."""
    history = good()
    allowed(history)
    assert check(history) == []


def test_a_good_history_has_no_problem() -> None:
    """Received and settled; a message group in order."""
    assert check(good()) == []
    assert check(ordered()) == []
