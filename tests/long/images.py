"""Campaign `images`: 20,000 crash images of workloads, both profiles that keep messages (tests/sim/images.py)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tests.sim.images import Image, play
from tests.sim.lines import Lined, LinedImage
from tests.sim.rig import quiet
from tests.sim.transactions import TransactImage, Transacting
from tests.sim.workload import Workload

ROUNDS = 50
OF = ("rmq", "store", "tests/model/ranks.py", "tests/model/reading.py", "tests/sim", "tests/rmq/rig.py")
WORKLOADS = 12  # a round, of IMAGES each; a third of each kind
IMAGES = 34
KINDS: Sequence[tuple[Callable[..., Workload], Callable[..., Image]]] = (
    (Workload, Image),
    (Transacting, TransactImage),
    (Lined, LinedImage),
)


def run(seed: int) -> Mapping[str, int]:
    """WORKLOADS workloads, decided by `seed`."""
    counts: Counter[str] = Counter()
    with quiet():
        for number in range(WORKLOADS):
            flush = ("durable", "fast")[number % 2]
            workload, image_of = KINDS[number // 2 % len(KINDS)]
            counts += play(seed + number, flush, images=IMAGES, workload=workload, image_of=image_of)
    return counts | {"images": counts.total()}
