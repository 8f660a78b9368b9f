"""Campaign `images`: 20,000 crash images of workloads, both profiles that keep messages (tests/sim/images.py)."""

from collections import Counter
from collections.abc import Mapping

from tests.sim.images import play
from tests.sim.rig import quiet

ROUNDS = 50
WORKLOADS = 10  # a round, of IMAGES each
IMAGES = 40


def run(seed: int) -> Mapping[str, int]:
    """WORKLOADS workloads, decided by `seed`."""
    counts: Counter[str] = Counter()
    with quiet():
        for number in range(WORKLOADS):
            counts += play(seed + number, ("durable", "fast")[number % 2], images=IMAGES)
    return counts | {"images": counts.total()}
