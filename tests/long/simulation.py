"""Campaign `simulation`: the broker against its model on a simulated disk, a million steps (tests/model/machine.py)."""

from collections import Counter
from collections.abc import Mapping

import hypothesis
from hypothesis import HealthCheck, settings

from tests.model.litecrashes import LiteMachine
from tests.model.machine import play

ALSO = ("model",)  # as it is the model that knows every verb
ROUNDS = 30  # of about 35,000 steps each
OF = (
    "rmq",
    "store",
    "tests/model",
    *(f"tests/sim/{name}.py" for name in ("disk", "faults", "loop", "rig")),
    "tests/rmq/rig.py",
)
EXAMPLES = 600
STEPS = 80


def run(seed: int) -> Mapping[str, int]:
    """EXAMPLES runs of up to STEPS steps, decided by `seed`; returns what happened in them."""
    counts: Counter[str] = Counter()
    machine = hypothesis.seed(seed)(
        type(f"Machine{seed}", (LiteMachine,), {"flush": ("fast", "durable")[seed % 2], "counts": counts})
    )
    play(machine, settings(max_examples=EXAMPLES, stateful_step_count=STEPS, suppress_health_check=list(HealthCheck)))
    return counts
