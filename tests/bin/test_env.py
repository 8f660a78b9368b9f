"""bin/rmq and its environment: the first run, the later ones, and what stands in their way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bin.lib import makeenv
from tests.processes import started

ROOT = Path(__file__).parents[2]
BASE_PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
TOOLS = "/usr/bin:/bin"
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "nothing"
version = "1"
"""
FAKE_PYTHON = '#!/bin/sh\necho "pid $$ args $*"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with our scripts and another project."""
    root = tmp_path / "check out"
    shutil.copytree(ROOT / "bin", root / "bin", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "pyproject.toml").write_text(PROJECT)
    return root


def complete(root: Path) -> None:
    """An environment that counts as made; its python only tells how it was called."""
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    stamp = root / ".venv" / makeenv.STAMP
    stamp.mkdir()
    shutil.copy(root / "pyproject.toml", stamp)
    (stamp / "root").write_text(f"{root}\n")


def shim(folder: Path, name: str, text: str) -> Path:
    """An executable script; returns its folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder


def find_python(path: str) -> str:
    """What env.sh finds with this PATH."""
    script = f'. "{ROOT}/bin/lib/env.sh"; PATH="{path}"; find_python || echo none'
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60).stdout.strip()


def test_the_script_becomes_the_server(checkout: Path, tmp_path: Path) -> None:
    """With an environment there: its process id stays, arguments arrive whole, and it works through a link."""
    complete(checkout)
    (tmp_path / "link").symlink_to("check out/bin/rmq")
    for script in (checkout / "bin" / "rmq", tmp_path / "link"):
        with started([script, "serve", "--data", "a b"], cwd="/") as begun:
            out, _ = begun.communicate(timeout=120)
        assert out == f"pid {begun.pid} args -P -m rmq serve --data a b\n"


@pytest.mark.parametrize("change", ["pyproject.toml", ".venv/rmq-stamp/root", ".venv/bin/python"])
def test_an_environment_that_does_not_fit_is_not_used(checkout: Path, tmp_path: Path, change: str) -> None:
    """Another pyproject.toml, another place (a moved checkout), no interpreter: it would be made again."""
    complete(checkout)
    (checkout / change).rename(checkout / "gone") if change.startswith(".venv/bin") else (checkout / change).write_text(
        "x"
    )
    empty = shim(tmp_path / "empty", "nothing", "")
    for tool in ("dirname", "readlink", "cmp"):
        (empty / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        ["/bin/sh", checkout / "bin" / "rmq"], env={"PATH": str(empty)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("rmq: needs Python 3.11 or newer")
    assert done.stderr.count("\n") == 1


def test_the_first_python_that_really_runs_is_taken(tmp_path: Path) -> None:
    """A shim that fails, one that is too old and one that is no program are passed over."""
    broken = shim(tmp_path / "shims", "python3.11", "echo 'command not found' >&2; exit 127")
    old = shim(tmp_path / "old", "python3", "exit 1")
    good = tmp_path / "good dir"
    good.mkdir()
    (good / "python3.11").symlink_to(BASE_PYTHON)
    assert find_python(f"{broken}:{old}:{good}") == str(good / "python3.11")
    assert find_python(f"{broken}:{old}:{tmp_path}/missing") == "none"


def test_a_bare_python3_will_do(tmp_path: Path) -> None:
    """If it is new enough."""
    only = tmp_path / "only"
    only.mkdir()
    (only / "python3").symlink_to(BASE_PYTHON)
    assert find_python(str(only)) == str(only / "python3")


@pytest.mark.slow
def test_without_network_the_first_run_says_so(checkout: Path) -> None:
    """One last line of cause, exit code 1, standard output left alone; the next run tries anew."""
    (checkout / "pyproject.toml").write_text(PROJECT.replace("requires = []", 'requires = ["hatchling"]'))
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PATH": f"{BASE_PYTHON.parent}:{TOOLS}"}
    done = subprocess.run([checkout / "bin" / "rmq", "serve"], env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    first, last = done.stderr.splitlines()
    assert first.startswith("rmq: making .venv with Python 3.")
    assert last.startswith("rmq: packages cannot be downloaded: is the network there")
    assert not makeenv.is_current(checkout, ".venv")


def install_nothing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces venv and pip; returns what they were called for."""
    calls: list[str] = []

    def create(env: Path) -> None:
        calls.append("create")
        (env / "bin").mkdir(parents=True)
        (env / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(makeenv, "create", create)
    monkeypatch.setattr(makeenv, "install", lambda env, requirement: calls.append(f"install {requirement}"))
    return calls


def test_an_environment_is_made_once_and_updated_in_place(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run does nothing; a changed pyproject.toml installs again; a moved checkout starts anew."""
    calls = install_nothing(monkeypatch)
    assert makeenv.main("check", str(checkout), ".venv-dev", "[dev]") == 0
    assert makeenv.main("check", str(checkout), ".venv-dev", "[dev]") == 0
    assert calls == ["create", f"install {checkout}[dev]"]
    (checkout / "pyproject.toml").write_text(PROJECT + "# changed\n")
    assert makeenv.main("check", str(checkout), ".venv-dev", "[dev]") == 0
    assert calls[2:] == [f"install {checkout}[dev]"]
    moved = checkout.rename(checkout.with_name("moved"))
    assert makeenv.main("check", str(moved), ".venv-dev", "[dev]") == 0
    assert calls[3:] == ["create", f"install {moved}[dev]"]


def interrupted(_env: Path, _requirement: str) -> None:
    """As an installation that the user stops."""
    raise KeyboardInterrupt


def test_a_run_that_was_cut_short_is_made_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its stamp an environment counts for nothing, however far it got."""
    calls = install_nothing(monkeypatch)

    with monkeypatch.context() as patch:
        patch.setattr(makeenv, "install", interrupted)
        with pytest.raises(KeyboardInterrupt):
            makeenv.main("rmq", str(checkout), ".venv", "")
    assert makeenv.main("rmq", str(checkout), ".venv", "") == 0
    assert calls == ["create", "create", f"install {checkout}"]


def test_two_first_runs_make_one_environment(checkout: Path) -> None:
    """The second waits for the first and then has nothing to do."""
    code = (
        "import pathlib, sys, time; sys.path.insert(0, sys.argv[1]); from bin.lib import makeenv\n"
        "def create(env): env.mkdir(); print('create', flush=True); time.sleep(0.5)\n"
        "makeenv.create, makeenv.install = create, lambda env, requirement: None\n"
        "sys.exit(makeenv.main('rmq', sys.argv[1], '.venv', ''))\n"
    )
    command = [sys.executable, "-c", code, str(checkout)]
    with started(command) as first, started(command) as second:
        runs = (first, second)
        outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted(out for out, _ in outputs) == ["", "create\n"]


def test_a_checkout_that_cannot_be_written_to_is_one_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what to do instead."""

    def read_only(_env: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(makeenv, "create", read_only)
    assert makeenv.main("rmq", str(checkout), ".venv", "") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"rmq: cannot write {checkout}/.venv: Read-only file system; make an environment elsewhere")


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("WARNING: x\nERROR: No matching distribution found for hatchling", "packages cannot be downloaded"),
        ("Collecting\nerror: metadata-generation-failed\nnote", "installing failed: error: metadata-generation-failed"),
        ("killed", "installing failed: no reason given"),
    ],
)
def test_the_installer_s_many_lines_become_one(log: str, said: str) -> None:
    """The cause that a user can do something about comes first."""
    assert makeenv.reason(log).startswith(said)
