"""Makes or repairs one virtual environment of the checkout. Standard library only: it runs before anything is
installed.

makeenv.py PROGRAM ROOT NAME EXTRAS: installs ROOT, editable, with EXTRAS ("" or "[dev]"), into ROOT/NAME. Messages go
to standard error, the installer's own to NAME/install.log. Crash story: the stamp is written last, so an environment
that was cut short is made again; a lock on the checkout keeps a second run out until the first has ended, however it
ended.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAMP = "rmq-stamp"
NETWORK_SIGNS = ("Failed to establish", "Temporary failure", "Name or service", "timed out", "No matching distribution")


class MakeError(Exception):
    """The text is the one line that the user sees."""


def main(program: str, root_text: str, name: str, extras: str) -> int:
    """Returns the exit code."""
    root = Path(root_text)
    try:
        with locked(root, program):
            if not is_current(root, name):
                make(root, name, extras, program)
    except MakeError as error:
        say(program, str(error))
        return 1
    except OSError as error:
        say(program, f"cannot write {root / name}: {error.strerror}; make an environment elsewhere: pip install {root}")
        return 1
    return 0


@contextmanager
def locked(root: Path, program: str) -> Iterator[None]:
    """Holds the checkout's lock: on its directory, so that a read-only checkout needs no lock file."""
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(program, "another run is making an environment, waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_current(root: Path, name: str) -> bool:
    """Whether the environment was completed for this place and this pyproject.toml."""
    stamp = root / name / STAMP
    try:
        same_place = (stamp / "root").read_text() == f"{root}\n"
        return same_place and (stamp / "pyproject.toml").read_bytes() == (root / "pyproject.toml").read_bytes()
    except OSError:
        return False


def make(root: Path, name: str, extras: str, program: str) -> None:
    """Installs into the environment that is there, if it is whole and in its place; else into a new one."""
    env = root / name
    started = time.monotonic()
    if was_completed_here(root, env):
        say(program, f"updating {name}, because pyproject.toml changed")
    else:
        say(program, f"making {name} with Python {sys.version.split()[0]}, about a minute")
        shutil.rmtree(env, ignore_errors=True)
        create(env)
    shutil.rmtree(env / STAMP, ignore_errors=True)
    pyproject = (root / "pyproject.toml").read_bytes()
    install(env, f"{root}{extras}")
    (env / STAMP).mkdir()
    (env / STAMP / "pyproject.toml").write_bytes(pyproject)
    (env / STAMP / "root").write_text(f"{root}\n")
    say(program, f"made {name} in {time.monotonic() - started:.0f} s")


def was_completed_here(root: Path, env: Path) -> bool:
    """A moved checkout's scripts point to the old place, and an environment may outlive its interpreter."""
    try:
        if (env / STAMP / "root").read_text() != f"{root}\n":
            return False
        return subprocess.run([env / "bin" / "python", "-c", "import pip"], capture_output=True).returncode == 0
    except OSError:
        return False


def create(env: Path) -> None:
    """An empty environment with pip."""
    try:
        venv.create(env, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as error:
        raise MakeError(
            f"{sys.executable} cannot make an environment (its ensurepip failed); try another Python"
        ) from error


def install(env: Path, requirement: str) -> None:
    """Runs pip; its output stays in install.log."""
    log = env / "install.log"
    options = ["--disable-pip-version-check", "--no-input", "--retries", "2"]
    with log.open("wb") as out:
        command: list[str | Path] = [env / "bin" / "python", "-m", "pip", "install", *options, "-e", requirement]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        raise MakeError(reason(log.read_text(errors="replace")) + f" (all of it: {log})")


def reason(text: str) -> str:
    """The installer's many lines in one."""
    if any(sign in text for sign in NETWORK_SIGNS):
        return "packages cannot be downloaded: is the network there, and pip's index set?"
    errors = [line for line in text.splitlines() if line.lower().lstrip().startswith("error")]
    return f"installing failed: {(errors or ['no reason given'])[-1].strip()}"


def say(program: str, text: str) -> None:
    """One line to standard error."""
    print(f"{program}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
