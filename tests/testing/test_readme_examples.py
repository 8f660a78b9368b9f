"""The README's examples for tests run as they are printed, each where its tools are there."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

import rmq.testing
from rmq.testing.process import environment
from tests.clients import builders
from tests.testing.conftest import Runs

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LANGUAGES = {language.name: language for language in builders.FOREIGN}


def example(title: str) -> str:
    """The program below a paragraph that begins with this title."""
    found = re.search(rf"^\*\*{re.escape(title)}\*\*.*?^```\w+\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def surroundings(home: Path) -> Mapping[str, str]:
    """`python3` and `rmq` are those of this test, clients write their logs to `home`."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    keep = {name: os.environ[name] for name in ("GOCACHE", "GOMODCACHE", "GOPATH") if name in os.environ}
    for name in ("GOCACHE", "GOMODCACHE"):
        if name not in keep and shutil.which("go"):
            keep[name] = subprocess.run(["go", "env", name], capture_output=True, text=True, check=True).stdout.strip()
    return {**environment(), **keep, "PATH": path, "HOME": str(home)}


def run(*command: str, home: Path, env: Mapping[str, str] | None = None) -> str:
    """What a program that succeeds prints."""
    done = subprocess.run(
        command, cwd=home, env={**surroundings(home), **(env or {})}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def driver_of(language: str) -> Sequence[str]:
    """The command of a language's client driver, whose packages the example borrows."""
    try:
        return builders.ready(LANGUAGES[language])
    except builders.UnavailableError as reason:
        pytest.skip(f"{language}: {reason}")


@pytest.mark.foreign
def test_pytest(runs: Runs) -> None:
    """With the plugin and the official client."""
    runs(example("pytest")).assert_outcomes(passed=1)


def test_unittest(tmp_path: Path) -> None:
    """Without pytest."""
    (tmp_path / "test_orders.py").write_text(example("unittest"))
    run(sys.executable, "test_orders.py", home=tmp_path)


def test_asyncio(tmp_path: Path) -> None:
    """Prints what was sent."""
    assert run(sys.executable, "-c", example("asyncio"), home=tmp_path) == "['one book']\n"


def test_github_actions(tmp_path: Path) -> None:
    """The step that starts the server, in the shell that a job has."""
    with rmq.testing.server() as server:
        port = server.port  # free a moment later
    (step,) = [s for s in yaml.safe_load(example("GitHub Actions"))["jobs"]["tests"]["steps"] if "name" in s]
    env = {"RMQ_PORT": str(port), "RMQ_ENDPOINT": f"localhost:{port}"}
    script = tmp_path / "step.sh"
    script.write_text(f"{step['run']}\necho $!\n")
    with (tmp_path / "said").open("w+") as said:
        shell = ["bash", "-e", str(script)]
        code = subprocess.run(
            shell, cwd=tmp_path, env={**surroundings(tmp_path), **env}, stdout=said, stderr=said, timeout=300
        ).returncode
        said.seek(0)
        text = said.read()
    pid = int(text.splitlines()[-1])
    try:
        assert code == 0, text
        with rmq.testing.connect(f"localhost:{port}") as connection:
            assert set(connection.topics()) == {"orders"}
    finally:
        os.kill(pid, signal.SIGTERM)


@pytest.mark.foreign
def test_go(tmp_path: Path) -> None:
    """`go test`, with the modules of the client's driver."""
    driver_of("go")
    for name in ("go.mod", "go.sum"):
        shutil.copy(ROOT / "tests/clients/go" / name, tmp_path)
    (tmp_path / "orders_test.go").write_text(example("Go"))
    assert run("gofmt", "-l", ".", home=tmp_path) == ""
    run("go", "test", "-mod=readonly", "-count=1", "./...", home=tmp_path)


@pytest.mark.foreign
def test_java(tmp_path: Path) -> None:
    """Its `main`, with the jars of the client's driver."""
    command = driver_of("java")
    jars = command[command.index("-cp") + 1].split(":")[1]
    (tmp_path / "RocketMqServer.java").write_text(example("Java"))
    run("javac", "-cp", jars, "-d", "classes", "RocketMqServer.java", home=tmp_path)
    said = run("java", "-Duser.home=.", "-cp", f"classes:{jars}", "RocketMqServer", home=tmp_path)
    assert said.splitlines()[-1] == "sent"
