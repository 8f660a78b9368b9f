"""Campaign `rot`: every byte of a 256 KiB store flipped, blocks zeroed and swapped, cuts: see tests/faults."""

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.faults import rot

ROUNDS = 128
OF = ("store", "tests/faults/rot.py", "tests/store/support.py")
COUNTED = True  # round n flips every 128th byte of every file, from byte n on
BLOCKS = (512, 4096)
BLOCK_TRIALS = 12
LARGE_EVERY = 16  # rounds
LARGE_BYTES, LARGE_FLIPS = 4 << 20, 40


def run(seed: int) -> Mapping[str, int]:
    """One part of the bytes; returns how many trials ended in which way."""
    counts: Counter[str] = Counter()
    with rot.folder() as folder:
        root = Path(folder) / "data"
        sample = rot.Sample(root, seed=1)
        rng = random.Random(seed)
        for number, (path, offset) in enumerate(sample.places()[seed % ROUNDS :: ROUNDS]):
            checkpoint = path.startswith("rmq/checkpoint") or bool((number + seed) % 2)
            damage = sample.flip(path, offset, rng.randrange(1, 256))
            counts[rot.trial(sample, root, [damage], checkpoint=checkpoint, again=number % 32 == 0)] += 1
            counts["flips"] += 1
        counts += blocks(sample, root, rng, BLOCK_TRIALS)
        for border in sample.borders[seed % ROUNDS :: ROUNDS]:
            counts += cuts(sample, root, border)
        if seed % LARGE_EVERY == 0:
            counts += large(Path(folder) / "large", rng)
    return counts


def blocks(sample: rot.Sample, root: Path, rng: random.Random, trials: int) -> Counter[str]:
    """Zeroed and swapped."""
    counts: Counter[str] = Counter()
    for number in range(trials):
        for make in (rot.zeroed, rot.swapped):
            damages = make(sample, rng, rng.choice(BLOCKS))
            counts[rot.trial(sample, root, damages, checkpoint=bool(number % 2))] += 1
            counts[make.__name__] += 1
    return counts


def cuts(sample: rot.Sample, root: Path, border: int) -> Counter[str]:
    """At a border of two records, and a byte before and behind it."""
    counts: Counter[str] = Counter()
    for position in range(max(border - 1, sample.borders[0]), border + 2):
        for short in (False, True):
            for checkpoint in (False, True):
                damages = rot.cut(sample, position, short=short)
                counts[rot.trial(sample, root, damages, checkpoint=checkpoint)] += 1
                counts["cuts"] += 1
    return counts


def large(root: Path, rng: random.Random) -> Counter[str]:
    """Random bytes of a store of some MiB."""
    counts: Counter[str] = Counter()
    sample = rot.Sample(root, seed=2, log_bytes=LARGE_BYTES)
    places = sample.places()
    for number in range(LARGE_FLIPS):
        damage = sample.flip(*rng.choice(places), rng.randrange(1, 256))
        counts[rot.trial(sample, root, [damage], checkpoint=True, again=number % 8 == 0)] += 1
        counts["flips in a large store"] += 1
    return counts
