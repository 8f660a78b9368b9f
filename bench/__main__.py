"""Measures this checkout: `bin/bench [NAME ...]`, the server on one core, its client on another.

bin/bench                        every load, rmq alone; one table
bin/bench send-b1 cold           these only
bin/bench --apache               send-b1, send-b32, consume and both, rmq and Apache in turn, three pairs each
bin/bench --apache latency idle  further loads, into the same result file; what is there already is not repeated
bin/bench --tls send-b1 both     the same over TLS, rmq alone or beside Apache
bin/bench backlog leases         what is measured inside rmq, by name
bin/bench polls-wide tls         what many polls, connections and handshakes cost
bin/bench --list                 the names

The table goes to standard output, and with commit and machine to bench/results/DATE-COMMIT.json. Lines that may be
noise are marked with ~ and say why. Exit codes: 0 all measured, 1 something failed, 2 a wrong argument, 130 stopped.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bench import book, figures, session, tools
from bench.book import Results
from bench.loads import LOADS, PAIRS
from bench.stand import Settings, Stand
from bench.table import render, render_lines
from bench.tools import BenchError

DEFAULT = Settings()
STOPPING = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = parser().parse_args(arguments)
    if options.list:
        print("\n".join([*LOADS, *figures.FIGURES]))
        return 0
    for number in STOPPING:
        signal.signal(number, interrupt)
    try:
        names = chosen(options.names, options.apache)
        return bench(names, options)
    except BenchError as error:
        tools.say(str(error))
        return 1
    except KeyboardInterrupt:
        tools.say("stopped; with --apache the same command goes on where it was")
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("bin/bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("names", metavar="NAME", nargs="*", help="loads and figures, see --list")
    made.add_argument("--apache", action="store_true", help="measure Apache RocketMQ too, in turn with rmq")
    made.add_argument("--list", action="store_true", help="print the names")
    made.add_argument("--rounds", metavar="N", type=count, default=3, help="measurements, or pairs, of each load [3]")
    made.add_argument("--flush", choices=("durable", "fast", "memory"), default=DEFAULT.flush, help="rmq's [fast]")
    made.add_argument("--tls", action="store_true", help="clients use TLS")
    made.add_argument("--results", metavar="DIR", type=Path, default=book.RESULTS, help="[bench/results]")
    for name, text in (
        ("seconds", "of one measurement"),
        ("warm-first-s", "Apache is warmed with the first load"),
        ("warm-load-s", "Apache is warmed with each load"),
        ("idle-s", "a server is watched that nobody uses"),
    ):
        default = getattr(DEFAULT, name.replace("-", "_"))
        made.add_argument(f"--{name}", metavar="S", type=seconds, default=default, help=f"{text} [{default:.0f}]")
    return made


def count(text: str) -> int:
    """A number of rounds."""
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def seconds(text: str) -> float:
    """A time; none is a time too."""
    if not 0 <= (value := float(text)) <= 3600:
        raise ValueError(text)
    return value


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does, and both do where a shell has begun us in the background."""
    raise KeyboardInterrupt


def chosen(names: Sequence[str], apache: bool) -> list[str]:
    """The names that are measured. Exits with 2 for one that there is not, or not beside Apache."""
    known = list(LOADS) if apache else [*LOADS, *figures.FIGURES]
    for name in names:
        if name not in known:
            parser().error(f"no {name}{' with --apache' if apache else ''}; there are: {', '.join(known)}")
    return list(names) or list(PAIRS if apache else LOADS)


def bench(names: Sequence[str], options: argparse.Namespace) -> int:
    """Measures and prints. Raises BenchError where nothing can be measured."""
    wanted = session.in_order(names)
    inside = [name for name in names if name in figures.FIGURES]
    times = (options.seconds, options.warm_first_s, options.warm_load_s, options.idle_s)
    settings = Settings(*times, flush=options.flush, tls=options.tls)
    tools.require(tools.needed(options.apache))
    with tools.workspace() as scratch:
        stand = Stand(scratch, settings)
        tools.prepare(options.apache)
        kept = book.find(book.now(settings), options.results)
        left = session.left_of(wanted, kept, options.rounds, pairs=options.apache)
        takes_s = session.estimate_s(left, options.rounds, settings, pairs=options.apache)
        apart = f", {', '.join(inside)} apart" if inside else ""
        tools.say(f"about {takes_s / 60:.0f} minutes{apart}; results go to {kept.path.name}")
        try:
            session.measure(stand, kept, wanted, options.rounds, pairs=options.apache)
            figures.measure(stand, kept, inside)
        finally:
            quietly_close(stand)
    return show(kept, [load.name for load in wanted], inside, apache=options.apache)


def quietly_close(stand: Stand) -> None:
    """A second Ctrl-C must not leave a paused server behind; closing takes seconds."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    stand.close()
    for number in STOPPING:
        signal.signal(number, interrupt)


def show(kept: Results, names: Sequence[str], inside: Sequence[str], *, apache: bool) -> int:
    """Prints what was asked for; 1 if any of it failed."""
    entries = kept.book.pairs if apache else kept.book.alone
    rows = [row for name in names for row in book.entry_rows(LOADS[name], entries[name])]
    if rows:
        print(render(rows))
    lines = [line for name in inside for line in kept.book.figures[name]]
    if lines:
        print(render_lines(lines))
    return 1 if any(entries[name].failed for name in names) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
