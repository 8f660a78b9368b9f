"""Campaign `images`: 20,000 crash images of workloads, both profiles that keep messages (tests/sim/images.py)."""

from collections import Counter
from collections.abc import Mapping

from tests.sim.images import play
from tests.sim.rig import quiet
from tests.sim.transactions import TransactImage, Transacting

ROUNDS = 50
WORKLOADS = 10  # a round, of IMAGES each
IMAGES = 40
TRANSACTION_IMAGES = 10  # besides: of workloads with transactions


def run(seed: int) -> Mapping[str, int]:
    """WORKLOADS workloads, decided by `seed`."""
    counts: Counter[str] = Counter()
    with quiet():
        for number in range(WORKLOADS):
            flush = ("durable", "fast")[number % 2]
            counts += play(seed + number, flush, images=IMAGES)
            counts += play(
                seed + number, flush, images=TRANSACTION_IMAGES, workload=Transacting, image_of=TransactImage
            )
    return counts | {"images": counts.total()}
