"""Campaign `nth_call`: every call of every kind fails, once and from then on, in each script of tests/faults/nth.py."""

import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rmq_store.flush import Mode
from tests.faults import nth, rot

PARTS = list(itertools.product(nth.SCRIPTS, (Mode.DURABLE, Mode.FAST)))
ROUNDS = len(PARTS)
COUNTED = True


def run(seed: int) -> Mapping[str, int]:
    """One script with one flush profile."""
    script, mode = PARTS[seed % ROUNDS]
    counts: Counter[str] = Counter()
    with rot.folder() as folder:
        for number, case in enumerate(nth.cases(Path(folder) / "counted", script, mode)):
            counts += nth.run(Path(folder) / str(number), case)
    return counts
