"""Campaign `model`: the broker against its model, long runs, the flush profiles in turn (tests/model/machine.py)."""

from collections import Counter
from collections.abc import Mapping

import hypothesis
from hypothesis import HealthCheck, settings

from tests.model.delayed import DelayMachine
from tests.model.machine import play

ROUNDS = 20
EXAMPLES = 150
STEPS = 80


def run(seed: int) -> Mapping[str, int]:
    """EXAMPLES runs of STEPS steps, decided by `seed`; returns what happened in them."""
    counts: Counter[str] = Counter()
    name = f"Machine{seed}"
    machine = hypothesis.seed(seed)(
        type(name, (DelayMachine,), {"flush": ("fast", "durable")[seed % 2], "counts": counts})
    )
    play(machine, settings(max_examples=EXAMPLES, stateful_step_count=STEPS, suppress_health_check=list(HealthCheck)))
    return counts
