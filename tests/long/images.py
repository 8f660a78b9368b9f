"""Campaign `images`: 20,000 crash images of workloads, both profiles that keep messages (tests/sim/images.py)."""

from collections import Counter
from collections.abc import Mapping

from tests.sim.images import Image, play
from tests.sim.rig import quiet
from tests.sim.transactions import TransactImage, Transacting
from tests.sim.workload import Workload

ROUNDS = 50
OF = ("rmq", "store", "tests/model", "tests/sim", "tests/rmq")
WORKLOADS = 10  # a round, of IMAGES each; half of them with transactions
IMAGES = 40


def run(seed: int) -> Mapping[str, int]:
    """WORKLOADS workloads, decided by `seed`."""
    counts: Counter[str] = Counter()
    with quiet():
        for number in range(WORKLOADS):
            plain, flush = number < WORKLOADS // 2, ("durable", "fast")[number % 2]
            workload, image_of = (Workload, Image) if plain else (Transacting, TransactImage)
            counts += play(seed + number, flush, images=IMAGES, workload=workload, image_of=image_of)
    return counts | {"images": counts.total()}
