"""Runs the checks in the order of cheapness; one line a step, and at the end `check: ok` or the step that failed.

bin/check               everything, under 30 minutes
bin/check --quick       no slow tests, foreign clients, crashes or fuzzing, under 3 minutes
bin/check --long NAME   one long campaign of tests/long, resumed where it stopped: see campaign.py

A step's own output is shown only when it fails, and below it the command that runs this step by itself. Branch coverage
is measured by the whole check: it doubles the tests' time. The quick tests run in two processes; they also run on every
other Python from 3.11 to 3.14 on PATH that really runs, each in an environment of its own.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
STEP_MAX_S = 1800.0
SLOW = "slow or foreign or crash or fuzz"
QUICK = ["-q", "-n", "2", "--dist", "loadfile", "-m", f"not ({SLOW})"]
PROBE = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"

Step = tuple[str, list[str]]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bin/check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="the quick part only")
    choice.add_argument("--long", metavar="NAME", help="one campaign of tests/long")
    parser.add_argument("--rounds", type=int, help="with --long: how many rounds this commit shall have in its ledger")
    parser.add_argument("--seed", type=int, help="with --long: repeat this one round, without the ledger")
    options = parser.parse_args()
    if options.long:
        from bin.lib import campaign

        return campaign.main(ROOT, options.long, options.rounds, options.seed)
    return run_all(steps(options.quick))


def steps(quick: bool) -> Iterator[Step]:
    """Name and command of each step; made as they come, because an environment is made only when its turn has come."""
    python = [sys.executable, "-m"]
    yield "ruff format", [*python, "ruff", "format", "--check", "."]
    yield "ruff", [*python, "ruff", "check", "."]
    yield "codespell", [*python, "codespell_lib"]
    yield "mypy", [*python, "mypy"]
    yield "import-linter", [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    yield "genproto", [sys.executable, "bin/genproto", "--check"]
    yield from quick_tests(python) if quick else all_tests(python)
    for version, interpreter in other_pythons(f"{sys.version_info[0]}.{sys.version_info[1]}"):
        env = f".venv-dev-{version}"
        yield f"environment {version}", [interpreter, "bin/lib/makeenv.py", "check", str(ROOT), env, "[dev]"]
        yield (
            f"pytest {version}",
            [f"{env}/bin/python", "-m", "pytest", *QUICK, "-p", "no:cacheprovider"],
        )


def quick_tests(python: list[str]) -> Iterator[Step]:
    """Without coverage."""
    yield "pytest", [*python, "pytest", *QUICK]


def all_tests(python: list[str]) -> Iterator[Step]:
    """With branch coverage of both parts together."""
    yield "coverage erase", [*python, "coverage", "erase"]
    yield "pytest", [*python, "coverage", "run", "-m", "pytest", *QUICK]
    yield "pytest, the slow part", [*python, "coverage", "run", "-m", "pytest", "-q", "-m", SLOW]
    yield "coverage combine", [*python, "coverage", "combine", "-q"]
    yield "coverage", [*python, "coverage", "report"]


def run_all(todo: Iterator[Step]) -> int:
    """Stops at the first step that fails."""
    for name, command in todo:
        started = time.monotonic()
        print(f"{name} ... ", end="", flush=True)
        code, output = run(command)
        print(f"{'ok' if code == 0 else 'FAILED'} {time.monotonic() - started:.1f} s", flush=True)
        if code:
            print(output)
            print(f"by itself: {shlex.join(command)}")
            print(f"check: failed: {name}")
            return 1
    print("check: ok")
    return 0


def run(command: list[str], within_s: float = STEP_MAX_S) -> tuple[int, str]:
    """Exit code and output of one step; a step that hangs is ended, as a failure."""
    null, pipe, same = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=within_s, stdin=null, stdout=pipe, stderr=same)
    except subprocess.TimeoutExpired as error:
        return 1, f"{(error.output or b'').decode(errors='replace')}\nstill running after {within_s:.0f} s"
    return done.returncode, done.stdout.decode(errors="replace")


def other_pythons(running: str) -> Iterator[tuple[str, str]]:
    """Version and path of each interpreter on PATH of another version than `running`; the first that works of each."""
    for version in VERSIONS:
        if version != running:
            candidates = [Path(folder or ".", f"python{version}") for folder in os.environ.get("PATH", "").split(":")]
            working = next((str(python) for python in candidates if is_version(python, version)), None)
            if working:
                yield version, working


def is_version(python: Path, version: str) -> bool:
    """A shim may be there and not run."""
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == version


if __name__ == "__main__":
    sys.exit(main())
