"""A slice of the fuzzing; `bin/check --long h2_fuzz` does more. A seed that fails can be played again alone."""

import pytest

from tests.proxy.http2.fuzz import play


@pytest.mark.fuzz
def test_mutations() -> None:
    """See fuzz.play."""
    for seed in range(4000):
        play(seed)
