"""The programs that a measurement needs and the folder where it works.

Owns the folder (`RMQ_BENCH_HOME`, else rmq-bench in the user's cache): built load generators, scratch space, a lock, so
that two measurements never run at once. What is missing is one line that says how to get it.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import psutil

from bench.machine import ROOT, files, hash_of

LOADGEN = ROOT / "bench" / "loadgen"
PROTO = ROOT / "proto" / "apache"
APACHE = ROOT / "bench" / "apache" / "apache.sh"
APACHE_VERSION = "5.5.0"
NEEDED_FOR = {
    "taskset": "pins server and client to a core each; Debian: apt install util-linux",
    "go": "builds the load generator, 1.24 or newer",
    "java": "runs Apache, 17 or newer; Debian: apt install openjdk-17-jre-headless",
    "mvn": "downloads Apache's jars; Debian: apt install maven",
}


class BenchError(Exception):
    """The text is the one line that the user sees."""


def home() -> Path:
    """Where everything of ours outside the checkout is."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RMQ_BENCH_HOME") or cache / "rmq-bench")


def apache_libs() -> Path:
    """Where apache.sh keeps the jars; shared with whoever else uses it."""
    return Path(os.environ.get("APACHE_LIBS") or Path.home() / ".cache" / "apache-rocketmq")


def loadgen_path() -> Path:
    """The program for just these sources; it need not be there yet."""
    return home() / f"loadgen-{hash_of(files([LOADGEN, PROTO]), ROOT)}" / "loadgen"


def needed(apache: bool) -> list[str]:
    """What this run will call; a builder only where something is left to build."""
    programs = ["taskset"]
    if not loadgen_path().exists():
        programs.append("go")
    if apache:
        programs.append("java")
        if not (apache_libs() / f"lib-{APACHE_VERSION}").exists():
            programs.append("mvn")
    return programs


def require(programs: Sequence[str], which: Callable[[str], str | None] = shutil.which) -> None:
    """Raises BenchError that names all that are missing."""
    missing = [f"{program} ({NEEDED_FOR[program]})" for program in programs if not which(program)]
    if missing:
        raise BenchError(f"missing: {', '.join(missing)}")


def prepare(apache: bool) -> None:
    """Builds and downloads what is not there yet. Raises BenchError."""
    program = loadgen_path()
    if not program.exists():
        build(program)
    if apache:
        command = [str(APACHE), "fetch", "--version", APACHE_VERSION]
        run(command, "Apache's jars cannot be downloaded", env={"APACHE_HOME": str(apache_libs())})


def build(program: Path) -> None:
    """Crash story: the folder gets its name last, so one that was cut short is never used."""
    say("building the load generator")
    part = program.parent.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    command = ["sh", str(LOADGEN / "build.sh"), str(ROOT / "proto"), str(part)]
    run(command, "the load generator cannot be built", env={"PYTHON": sys.executable})
    part.rename(program.parent)


def run(command: Sequence[str], trouble: str, env: dict[str, str]) -> str:
    """Standard output of a helper. Raises BenchError with `trouble` and the last thing that it said."""
    done = subprocess.run(
        command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise BenchError(f"{trouble}: {said[-1]}")
    return done.stdout


@contextmanager
def workspace() -> Iterator[Path]:
    """An empty folder for this run's stores, gone afterwards. Raises BenchError if another run has it."""
    home().mkdir(parents=True, exist_ok=True)
    scratch = home() / "scratch"
    with (home() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError("another bench is running; two at once would measure each other") from None
        end_leftovers(scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def end_leftovers(scratch: Path) -> None:
    """Ends what is left of a run that was itself killed: servers with a store in our scratch folder, our own client."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if is_ours(process.cmdline(), scratch):
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(10)


def is_ours(command: Sequence[str], scratch: Path) -> bool:
    """Whether the command line is that of a server on this folder, or of the load generator beside it."""
    if command and command[0].startswith(f"{scratch.parent}/loadgen-"):
        return True
    return any(word.startswith(f"-Duser.home={scratch}/") for word in command) or any(
        flag == "--data" and value.startswith(f"{scratch}/") for flag, value in pairwise(command)
    )


def say(text: str) -> None:
    """Progress, for people."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
