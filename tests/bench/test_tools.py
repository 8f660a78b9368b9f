"""What is missing, where it works, and what it may end."""

from pathlib import Path

import pytest

from bench import tools
from bench.tools import BenchError


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's."""
    monkeypatch.setenv("RMQ_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APACHE_LIBS", str(tmp_path / "libs"))


def test_all_that_is_missing_is_said_in_one_line() -> None:
    """With what it is for, or how to get it."""
    with pytest.raises(BenchError) as caught:
        tools.require(["taskset", "go", "mvn"], lambda program: None if program in ("go", "mvn") else "/bin/it")
    said = str(caught.value)
    assert said.startswith("missing: go (builds the load generator, 1.24 or newer), mvn (downloads Apache's jars")
    assert "\n" not in said
    assert "taskset" not in said


@pytest.mark.parametrize("apache", [False, True])
def test_a_builder_is_needed_only_while_something_is_left_to_build(tmp_path: Path, apache: bool) -> None:
    """Who has built once can measure without go and Maven."""
    assert tools.needed(apache) == ["taskset", "go", *(["java", "mvn"] if apache else [])]
    tools.loadgen_path().parent.mkdir(parents=True)
    tools.loadgen_path().touch()
    (tmp_path / "libs" / f"lib-{tools.APACHE_VERSION}").mkdir(parents=True)
    assert tools.needed(apache) == ["taskset", *(["java"] if apache else [])]


def test_a_load_generator_is_known_by_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another source is another program; what Python leaves in a folder is no source."""
    source = tmp_path / "source"
    (source / "__pycache__").mkdir(parents=True)
    monkeypatch.setattr(tools, "LOADGEN", source)
    monkeypatch.setattr(tools, "PROTO", source)
    monkeypatch.setattr(tools, "ROOT", tmp_path)
    (source / "a.go").write_text("1")
    first = tools.loadgen_path()
    (source / "__pycache__" / "x.pyc").write_text("x")
    assert tools.loadgen_path() == first
    (source / "a.go").write_text("2")
    assert tools.loadgen_path() != first


def test_a_build_that_fails_leaves_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last line of what it said is the reason."""
    (tmp_path / "build.sh").write_text('touch "$2/loadgen"; echo compiling >&2; echo "no such package" >&2; exit 1')
    monkeypatch.setattr(tools, "LOADGEN", tmp_path)
    program = tmp_path / "out" / "loadgen"
    with pytest.raises(BenchError, match=r"^the load generator cannot be built: no such package$"):
        tools.build(program)
    assert not program.exists()
    (tmp_path / "build.sh").write_text('touch "$2/loadgen"')
    tools.build(program)
    assert program.exists()


def test_two_runs_at_once_are_refused() -> None:
    """They would measure each other."""
    with tools.workspace() as scratch:
        assert scratch.is_dir()
        with pytest.raises(BenchError, match="another bench is running"), tools.workspace():
            pytest.fail("two at once")
    assert not scratch.exists()
    with tools.workspace():
        pass


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        (["python", "-m", "rmq", "serve", "--data", "/s/scratch/rmq-1/data"], True),
        (["java", "-server", "-Duser.home=/s/scratch/apache-1", "Proxy"], True),
        (["python", "-m", "rmq", "serve", "--data", "/s/scratch-of-mine/data"], False),
        (["/s/loadgen-0123/loadgen", "send"], True),
        (["java", "-server", "-Duser.home=/s/apache"], False),
        (["tail", "-f", "/s/scratch/rmq-1/stderr"], False),
        ([], False),
    ],
)
def test_only_what_a_bench_has_started_is_left_over(command: list[str], ours: bool) -> None:
    """Everything else on the machine is somebody's."""
    assert tools.is_ours(command, Path("/s/scratch")) is ours
