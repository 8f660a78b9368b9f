"""The order of a run: which server is measured when, how long it is warmed, and what is kept after each step.

Alone: each load in turn. Beside Apache: it is warmed with the first load, then a while with each; rounds are pairs, and
the server that went first goes second in the next. A load that fails is a line of the table and stops no other.
"""

from collections.abc import Sequence

from bench import tools
from bench.book import Entry, Results, entry_for
from bench.loads import LOADS, Load
from bench.servers import Apache, Rmq
from bench.stand import Settings, Stand
from bench.tools import BenchError

SLICE_S = 30.0  # a consume load fills its topic before each: not everything at once


def in_order(names: Sequence[str]) -> list[Load]:
    """As loads.py lists them: transactions last."""
    return [load for name, load in LOADS.items() if name in names]


def measure(stand: Stand, results: Results, loads: Sequence[Load], rounds: int, *, pairs: bool) -> None:
    """Fills the book; everything that is measured is in the file at once."""
    names = (Apache.name, Rmq.name) if pairs else (Rmq.name,)
    entries = results.book.pairs if pairs else results.book.alone
    for load in loads:
        entry = entry_for(entries, load.name, stand.load_average, resume=pairs)
        if len(entry.rounds) >= rounds:
            tools.say(f"{load.name}: {len(entry.rounds)} rounds are there already")
            continue
        try:
            measure_load(stand, results, load, entry, names, rounds)
        except BenchError as error:
            entry.failed = str(error)
            tools.say(f"{load.name} failed: {error}")
        results.save()


def measure_load(stand: Stand, results: Results, load: Load, entry: Entry, names: Sequence[str], rounds: int) -> None:
    """Adds the rounds that are missing. Raises BenchError."""
    if load.kind:
        for name in reversed(names):  # rmq first: no need to start Apache for what has no counterpart
            if answer := stand.refusal(name, f"bench-{load.name}", load.kind):
                entry.not_served = f"{name} says {answer}"
                return
    if Apache.name in names and not load.own:
        warm(stand, load)
    for number in range(len(entry.rounds), rounds):
        entry.rounds.append({name: measure_once(stand, load, name, number, rounds) for name in turn(names, number)})
        results.save()


def turn(names: Sequence[str], number: int) -> Sequence[str]:
    """Who is measured first changes from round to round, so that a drift favours nobody."""
    return names if number % 2 == 0 else names[::-1]


def measure_once(stand: Stand, load: Load, name: str, number: int, rounds: int) -> dict[str, float]:
    """One sample. Raises BenchError."""
    tools.say(f"{load.name}: {name}, round {number + 1} of {rounds}")
    stand.only("" if load.own else name)
    sample = load.measure(stand, name, stand.settings.seconds)
    stand.settle(load.settle_s)
    return sample


def warm(stand: Stand, load: Load) -> None:
    """Runs the load on Apache, uncounted: long if it is its first, as the JVM compiles what it has seen often."""
    first_s = max(stand.settings.warm_first_s - stand.warmed_s, 0.0)
    left_s = first_s + stand.settings.warm_load_s
    if left_s > 0:
        tools.say(f"{load.name}: warming Apache for {left_s:.0f} s")
    stand.only(Apache.name)
    while left_s > 0:
        seconds = min(left_s, SLICE_S)
        load.measure(stand, Apache.name, seconds)
        left_s -= seconds
        stand.warmed_s += seconds
    stand.settle(load.settle_s)


def left_of(loads: Sequence[Load], results: Results, rounds: int, *, pairs: bool) -> list[Load]:
    """What a run will measure: alone everything, in pairs what is not there yet."""
    there = results.book.pairs if pairs else {}
    return [load for load in loads if load.name not in there or len(there[load.name].rounds) < rounds]


def estimate_s(loads: Sequence[Load], rounds: int, settings: Settings, *, pairs: bool) -> float:
    """How long all of it takes, about."""
    shared = [load for load in loads if not load.own]
    each = sum(settings.seconds + load.takes_s + load.settle_s + 2.0 for load in shared)
    own = sum(load.takes_s for load in loads if load.own)
    if not pairs:
        return rounds * (each + own)
    start_s, apache_own_s = 15.0, 25.0
    warming = (start_s + settings.warm_first_s if shared else 0.0) + settings.warm_load_s * len(shared)
    return warming + rounds * (2 * each + 2 * own + sum(apache_own_s for load in loads if load.own))
