"""Makes the drivers of the official clients and of the plain gRPC stacks, each once: sources, versions -> a command.

Owns the cache ($RMQ_TEST_CACHE, else rmq-tests in the user's cache folder), one folder per hash of a driver's sources;
promises that a second run needs no network. What can't be had here (a tool, a registry) is UnavailableError; a driver
whose parts are there but that does not build is an error.
"""

import hashlib
import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

SOURCES = Path(__file__).parent
BUILD_S = 900
MIB = 1 << 20
ENVELOPE_BYTES = 4096
WITHOUT_TLS = {"rocketmq.client.enableSsl": "false"}
"""For the Go client and our Java driver; their own choice is TLS."""
WITH_TLS = {"rocketmq.client.enableSsl": "true"}
"""For our Python and Node drivers, too; their clients' own choice is none."""


class UnavailableError(Exception):
    """The reason why a language can't be tested on this machine."""


@dataclass(frozen=True)
class Language:
    """One client. `body_bytes_max`: what it can both send and receive (facts: grpc.md 2.5).

    `shared`: a folder of sources that are built with its own. `reports_ack`: whether its ack raises what the server
    answered. `delays`: its driver sends delayed messages, and `recalls` them. `transacts`: it ends transactions and
    answers checks. `prioritizes`: its messages may have a priority. `lites`: it has push consumers of lite topics,
    `lite_simples`: simple ones; `hears_lite_ends`: they hear that a subscription has ended. `sends_async`: its driver
    sends many without waiting between them.

    `knows_tls`: it can be had with TLS; `killed`: its tests' server is killed in the middle (Session.middle).
    """

    name: str
    tools: Sequence[str]
    build: Callable[[Path, Path], None]
    command: Callable[[Path], list[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    shared: str = ""
    pushes: bool = True
    changes_invisible: bool = True
    reports_ack: bool = True
    delays: bool = False
    recalls: bool = True
    prioritizes: bool = False
    lites: bool = False
    lite_simples: bool = False
    hears_lite_ends: bool = True
    sends_async: bool = False
    transacts: bool = False
    knows_tls: bool = True
    killed: bool = False
    body_bytes_max: int = 4 * MIB


def run(*command: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a build step; its output is the error."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-3000:]}")


def fetch(*command: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a step that needs a registry."""
    try:
        run(*command, cwd=cwd, env=env)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"its packages can't be fetched: {error}") from error


def build_python(source: Path, target: Path) -> None:
    """Nothing to build: the development environment has the client."""
    if importlib.util.find_spec("rocketmq") is None:
        raise UnavailableError("rocketmq-python-client is not installed")
    shutil.copy(source / "driver.py", target)


def build_old_python(version: str) -> Callable[[Path, Path], None]:
    """The Python driver with an older client beside it."""

    def build(source: Path, target: Path) -> None:
        wanted = f"rocketmq-python-client=={version}"
        fetch(sys.executable, "-m", "pip", "install", "-q", "--target", str(target / "packages"), wanted, cwd=source)
        shutil.copy(source / "driver.py", target)

    return build


def build_node(source: Path, target: Path) -> None:
    """The packages of package-lock.json beside the script."""
    for file in ("driver.js", "package.json", "package-lock.json"):
        shutil.copy(source / file, target)
    fetch("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=target)


def build_go(source: Path, target: Path) -> None:
    """One binary, with the modules of go.sum."""
    fetch("go", "mod", "download", cwd=source)
    run("go", "build", "-mod=readonly", "-buildvcs=false", "-o", str(target / "driver"), ".", cwd=source)


def build_java(source: Path, target: Path) -> None:
    """Jars by Maven, classes by javac."""
    copy = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"
    fetch("mvn", "-q", "-B", copy, f"-DoutputDirectory={target / 'lib'}", cwd=source)
    run("javac", "-cp", f"{target}/lib/*", "-d", str(target / "classes"), "src/Driver.java", cwd=source)


def build_rust(source: Path, target: Path) -> None:
    """One binary, with the crates of Cargo.lock; what was compiled on the way is thrown away."""
    fetch("cargo", "fetch", "--locked", cwd=source)
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        run("cargo", "build", "--locked", "--offline", cwd=source, env={"CARGO_TARGET_DIR": made})
        shutil.copy(Path(made) / "debug" / "rmq-test-driver", target / "driver")


def binary(target: Path) -> list[str]:
    """The command of a language that compiles to one file."""
    return [str(target / "driver")]


def java(target: Path) -> list[str]:
    """A small, quickly started virtual machine whose logs stay in the working folder."""
    options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.home=.", "-Drocketmq.log.level=warn"]
    return ["java", *options, "-cp", f"{target / 'classes'}:{target}/lib/*", "Driver"]


def through_a_kill(language: Language) -> Language:
    """The same client as it is tried a second time: with TLS, where it has that, and its server killed."""
    return replace(language, env=WITH_TLS, killed=True)


def old_python(version: str) -> Language:
    """An older release of the Python client."""
    return Language(
        f"python-{version}",
        (),
        build_old_python(version),
        lambda target: ["env", f"PYTHONPATH={target / 'packages'}", sys.executable, str(target / "driver.py")],
        source="python",
    )


PYTHON = Language(
    "python",
    (),
    build_python,
    lambda target: [sys.executable, str(target / "driver.py")],
    delays=True,
    transacts=True,
    prioritizes=True,
    lites=True,
    lite_simples=True,
    sends_async=True,
)
FOREIGN = (
    Language(
        "node",
        ("node", "npm"),
        build_node,
        lambda target: ["node", str(target / "driver.js")],
        delays=True,
        transacts=True,
        prioritizes=True,
        lites=True,
        hears_lite_ends=False,
        sends_async=True,
        body_bytes_max=4 * MIB - ENVELOPE_BYTES,
    ),
    Language(
        "go",
        ("go",),
        build_go,
        binary,
        shared="lines/go",
        env=WITHOUT_TLS,
        reports_ack=False,
        delays=True,
        transacts=True,
        prioritizes=True,
        lites=True,
        sends_async=True,
        body_bytes_max=2 * MIB - ENVELOPE_BYTES,
    ),
    Language(
        "java",
        ("java", "javac", "mvn"),
        build_java,
        java,
        env=WITHOUT_TLS,
        delays=True,
        transacts=True,
        prioritizes=True,
        lites=True,
        sends_async=True,
    ),
    Language(
        "rust",
        ("cargo",),
        build_rust,
        binary,
        pushes=False,
        changes_invisible=False,
        delays=True,
        recalls=False,
        knows_tls=False,
        body_bytes_max=4 * MIB - ENVELOPE_BYTES,
    ),
)
STACKS = (
    Language("grpc-go", ("go",), build_go, binary, source="stacks/go", shared="lines/go"),
    Language("grpc-java", ("java", "javac", "mvn"), build_java, java, source="stacks/java"),
    Language(
        "grpc-js", ("node", "npm"), build_node, lambda target: ["node", str(target / "driver.js")], source="stacks/node"
    ),
    Language("tonic", ("cargo",), build_rust, binary, source="stacks/rust"),
)
OLD_PYTHONS = tuple(old_python(version) for version in ("5.0.9", "5.1.0", "5.1.1"))


def cache() -> Path:
    """Where built drivers stay."""
    named = os.environ.get("RMQ_TEST_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rmq-tests"


def sources_hash(language: Language) -> str:
    """Changes with the driver's name, its files and the function that builds it."""
    digest = hashlib.sha256(language.name.encode() + inspect.getsource(language.build).encode())
    for name in filter(None, (language.source or language.name, language.shared)):
        folder = SOURCES / name
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def ready(language: Language) -> list[str]:
    """The command that runs the driver, built now if it never was; raises UnavailableError."""
    missing = [tool for tool in language.tools if shutil.which(tool) is None]
    if missing:
        raise UnavailableError(f"no {' and no '.join(missing)} on PATH")
    target = cache() / f"{language.name}-{sources_hash(language)}"
    if not target.exists():
        build(language, target)
    return language.command(target)


def build(language: Language, target: Path) -> None:
    """Builds beside the target and renames, so that a half-made driver is never taken for a whole one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as made:
        folder = Path(made) / "driver"
        folder.mkdir()
        language.build(SOURCES / (language.source or language.name), folder)
        folder.rename(target)
