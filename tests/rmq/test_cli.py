"""The command line: exit codes, one line for each mistake, and what reaches the server."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rmq import __version__
from rmq.cli import cli, run
from rmq.config import Config, choices
from rmq.configsource import manual
from rmq_store.errors import StoreError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell."""
    for name in [name for name in os.environ if name.startswith("RMQ_")]:
        monkeypatch.delenv(name)


class StubNode(ModuleType):
    """Stands in for rmq.node: remembers the Config, and ends as told."""

    def __init__(self) -> None:
        super().__init__("rmq.node")
        self.config: Config | None = None
        self.end: int | Exception = 0

    def serve(self, config: Config) -> int:
        """As rmq.node.serve."""
        self.config = config
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> StubNode:
    """The node that `rmq serve` finds."""
    stub = StubNode()
    monkeypatch.setitem(sys.modules, "rmq.node", stub)
    return stub


def only_line(captured: Captured) -> str:
    """What a mistake prints: nothing on standard output, one line on standard error."""
    out, err = captured.readouterr()
    assert out == ""
    assert err.startswith("rmq: ")
    assert err.count("\n") == 1
    return err


def test_every_flag_reaches_the_server(node: StubNode, tmp_path: Path) -> None:
    """Under its setting's name."""
    path = tmp_path / "c.yaml"
    path.write_text("retention_hours: 5\n")
    flags = "--data d --host ::1 --port 0 --advertise h:1 --profile strict --flush memory --ready-file r"
    more = f"--log-format json --log-level error --manual-clock --topic a:FIFO:2 --topic b --group g:3 --config {path}"
    assert run(["serve", *flags.split(), *more.split()]) == 0
    config = node.config
    assert config is not None
    assert (config.data, config.host, config.port, config.advertise) == ("d", "::1", 0, "h:1")
    assert (config.profile, config.flush, config.ready_file) == ("strict", "memory", "r")
    assert (config.log_format, config.log_level, config.manual_clock) == ("json", "error", True)
    assert (set(config.topics), set(config.groups), config.retention_hours) == ({"a", "b"}, {"g"}, 5)


def test_without_flags_the_defaults_serve(node: StubNode) -> None:
    """A flag that is not given decides nothing."""
    assert run(["serve"]) == 0
    assert node.config == Config()


def test_the_environment_reaches_the_server(node: StubNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """RMQ_MANUAL_CLOCK=true counts even though there is a flag for it."""
    monkeypatch.setenv("RMQ_MANUAL_CLOCK", "true")
    assert run(["serve"]) == 0
    assert node.config == Config(manual_clock=True)


def test_the_server_s_exit_code_is_the_command_s(node: StubNode) -> None:
    """A server that says 3 ends with 3."""
    node.end = 3
    assert run(["serve"]) == 3


def test_a_store_that_cannot_be_opened_is_one_line_and_1(node: StubNode, capsys: Captured) -> None:
    """No traceback: the store's text says what to do."""
    node.end = StoreError("./rmq-data is in use by process 7;\n stop it, or use another --data")
    assert run(["serve"]) == 1
    assert only_line(capsys) == "rmq: ./rmq-data is in use by process 7; stop it, or use another --data\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["serve", "--prot", "1"], "No such option '--prot'"),
        (["serve", "--port"], "requires an argument"),
        (["serve", "--port", "x"], "--port: port is 'x', must be 0 to 65535"),
        (["serve", "--port="], "--port: port is empty"),
        (["serve", "--flush", "never"], "must be durable or fast or memory"),
        (["serve", "--topic", "a b"], "is no topic name"),
        (["serve", "--config", "/nowhere/c.yaml"], "/nowhere/c.yaml: cannot be read"),
        (["serve", "now"], "unexpected extra argument"),
        (["server"], "No such command 'server'"),
        (["config", "check", "--config", "/nowhere/c.yaml"], "cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_2(node: StubNode, capsys: Captured, args: list[str], said: str) -> None:
    """Nothing is started."""
    assert run(args) == 2
    assert said in only_line(capsys)
    assert node.config is None


def test_an_interrupt_before_the_server_runs_is_130(node: StubNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell says it."""

    def interrupted(_config: Config) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(node, "serve", interrupted)
    assert run(["serve"]) == 130


def test_config_show_prints_the_manual(capsys: Captured) -> None:
    """As it is in the checkout."""
    assert run(["config", "show"]) == 0
    out = capsys.readouterr().out
    assert out == manual()
    assert out == (Path(__file__).parents[2] / "config.yaml").read_text()


def test_config_check_says_where_each_setting_comes_from(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rising order of strength."""
    path = tmp_path / "c.yaml"
    path.write_text("segment_bytes: 1 MiB\ntopics: {a: , b: }\n")
    monkeypatch.setenv("RMQ_PORT", "5")
    assert run(["config", "check", "--config", str(path)]) == 0
    expected = [f"{path}: segment_bytes = 1048576", f"{path}: topics = a, b", "RMQ_PORT: port = 5", "ok"]
    assert capsys.readouterr().out.splitlines() == expected


def test_config_check_refuses_a_contradiction(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """What serve would refuse, check refuses."""
    monkeypatch.setenv("RMQ_POLL_MS_MIN", "30000")
    assert run(["config", "check"]) == 2
    assert "poll_ms_min" in capsys.readouterr().err


def test_version(capsys: Captured) -> None:
    """Name and number."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"rmq {__version__}\n"


def test_without_a_command_the_help_is_shown(capsys: Captured) -> None:
    """And the exit code says that nothing was done."""
    assert run([]) == 2
    assert "Usage: rmq" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "key"), [("--profile", "profile"), ("--flush", "flush"), ("--log-format", "log_format")]
)
def test_help_and_completion_offer_what_a_setting_may_be(flag: str, key: str) -> None:
    """The words in the help text are written there by hand: they must be the setting's."""
    serve = cli.commands["serve"]
    option = next(parameter for parameter in serve.params if flag in parameter.opts)
    context = serve.make_context("serve", [], resilient_parsing=True)
    assert option.make_metavar(context) == "|".join(choices(key))
    assert [item.value for item in option.shell_complete(context, "")] == list(choices(key))
    assert [item.value for item in option.shell_complete(context, choices(key)[0][:2])] == [choices(key)[0]]


def test_as_a_module_in_a_process_of_its_own() -> None:
    """`python -m rmq` and the shell completion protocol work."""
    env = {**os.environ, "_RMQ_COMPLETE": "bash_complete", "COMP_WORDS": "rmq serv", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "rmq"], env=env, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("plain,serve\n", "")
    done = subprocess.run(
        [sys.executable, "-m", "rmq", "serve", "--port", "x"], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_output_that_nobody_reads_is_no_traceback() -> None:
    """As in `rmq config show | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rmq", "config", "show"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=30)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
