"""Campaign `images`: 20,000 crash images of workloads, both profiles that keep messages (tests/sim/images.py)."""

import logging
from collections import Counter
from collections.abc import Mapping

from tests.sim.images import play

ROUNDS = 50
WORKLOADS = 10  # a round, of IMAGES each
IMAGES = 40


def run(seed: int) -> Mapping[str, int]:
    """WORKLOADS workloads, decided by `seed`."""
    counts: Counter[str] = Counter()
    logging.disable(logging.CRITICAL)  # damage is what is looked for
    try:
        for number in range(WORKLOADS):
            counts += play(seed + number, ("durable", "fast")[number % 2], images=IMAGES)
    finally:
        logging.disable(logging.NOTSET)
    return counts | {"images": counts.total()}
