"""How commands reach a server, what each kind of failure means for the exit code, and completion of names."""

import json
import socket
from pathlib import Path

import click
import pytest

from rmq.cli import ELSEWHERE, cli, run
from rmq.commands import server as reaching
from rmq.commands.exits import Failed, exit_code
from rmq_proxy.admin_client import ErrorKind
from tests.rmq.commands.rig import Commands, FakeServer

ASKING = [
    ["topic", "list"],
    ["topic", "show", "t"],
    ["topic", "delete", "t", "--yes"],
    ["group", "list"],
    ["group", "show", "g"],
    ["message", "peek", "t"],
    ["message", "tail", "t"],
    ["client", "list"],
    ["dlq", "list", "g"],
]


@pytest.mark.parametrize("args", ASKING)
def test_every_command_asks_the_server_that_it_is_told(rmq: Commands, server: FakeServer, args: list[str]) -> None:
    """A flag wins over the environment, the environment over the default."""
    for verb in ("topics", "groups", "clients", "peek"):
        server.fail(verb, "down")
    with pytest.MonkeyPatch.context() as patch:
        rmq(*args)
        patch.setenv("RMQ_ENDPOINT", "there:1")
        rmq(*args)
        rmq(*args, "--endpoint", "here:2")
    assert server.endpoints == ["localhost:8081", "there:1", "here:2"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("down", 2),
        ("not_ours", 2),
        ("busy", 2),
        ("refused", 2),
        ("invalid", 2),
        ("not_found", 1),
        ("exists", 1),
        ("failed", 1),
    ],
)
@pytest.mark.parametrize("args", [["topic", "list"], ["topic", "list", "--json"]])
def test_a_failure_is_one_line_in_the_client_s_words(
    rmq: Commands, server: FakeServer, args: list[str], kind: ErrorKind, code: int
) -> None:
    """Standard output stays empty, with --json too."""
    server.fail("topics", kind, "something is wrong; do this")
    assert rmq.fails(*args, code=code) == "something is wrong; do this"


def test_nothing_listens(rmq: Commands) -> None:
    """With the real client."""
    said = rmq.fails("topic", "list", "--endpoint", "127.0.0.1:1", code=2)
    assert said.startswith("nothing listens at 127.0.0.1:1")


def test_an_endpoint_that_is_none(rmq: Commands) -> None:
    """Likewise."""
    assert "is no endpoint" in rmq.fails("topic", "list", "--endpoint", "a b", code=2)


def test_click_s_own_errors_are_2() -> None:
    """Whatever click thinks of them itself."""
    assert exit_code(click.ClickException("x")) == 2
    assert exit_code(click.FileError("x")) == 2
    assert exit_code(Failed("x")) == 1
    assert exit_code(Failed("x", 2)) == 2


def test_the_endpoint_is_no_setting_of_a_server(rmq: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rmq serve` runs in a shell that has evaluated `rmq env`."""
    monkeypatch.setenv("RMQ_ENDPOINT", "localhost:8081")
    assert rmq("config", "check") == (0, "ok\n", "")


# -- completion --------------------------------------------------------------------------------------------------------


def completed(*args: str) -> list[str]:
    """What the last word may be completed to."""
    *before, begun = args
    context: click.Context = cli.make_context("rmq", before, resilient_parsing=True)
    command: click.Command = cli
    while isinstance(command, click.Group):
        name = before.pop(0)
        found = command.get_command(context, name)
        assert found is not None
        command = found
        context = command.make_context(name, list(before), parent=context, resilient_parsing=True)
    parameter = next(p for p in command.params if isinstance(p, click.Argument))
    return [item.value for item in parameter.shell_complete(context, begun)]


@pytest.fixture
def listening(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A server whose port answers."""
    monkeypatch.setattr(reaching, "_listens", lambda endpoint: True)
    return server


def test_topics_and_groups_are_completed_from_the_server(listening: FakeServer) -> None:
    """Those that begin so."""
    assert completed("topic", "show", "o") == ["orders"]
    assert completed("topic", "show", "x") == []
    assert completed("message", "peek", "or") == ["orders"]
    assert completed("group", "show", "b") == []
    assert listening.asked("groups") == [("", False)]


def test_completion_asks_the_server_that_the_line_names(listening: FakeServer) -> None:
    """Or the environment."""
    assert completed("topic", "show", "--endpoint", "there:1", "o") == ["orders"]
    assert listening.endpoints == ["there:1"]


def test_completion_of_a_server_that_does_not_help_is_empty(listening: FakeServer) -> None:
    """And silent."""
    listening.fail("topics", "busy")
    assert completed("topic", "show", "o") == []


def test_completion_without_a_server_is_empty(server: FakeServer) -> None:
    """And does not even load a client."""
    assert completed("topic", "show", "--endpoint", "127.0.0.1:1", "o") == []
    assert completed("topic", "show", "--endpoint", "nonsense", "o") == []
    assert server.endpoints == []


def test_a_port_that_takes_connections_counts_as_listening() -> None:
    """Whoever listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert reaching._listens(f"127.0.0.1:{listener.getsockname()[1]}")


# -- the list of commands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_every_command_that_is_listed_is_there_under_its_name(name: str) -> None:
    """With a help of its own."""
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    assert found.name == name
    assert found.help


def test_help_lists_all_commands(rmq: Commands) -> None:
    """Each with one line."""
    out = rmq("--help").out
    for name, (_, text) in ELSEWHERE.items():
        assert f"  {name:11}  {text}\n" in out


def test_every_command_that_reads_has_json() -> None:
    """All but those that change something or wait."""
    silent = {"create", "update", "delete", "reset-offset", "replay", "cancel", "commit", "rollback", "wait"}
    for name in ELSEWHERE:
        found = cli.get_command(click.Context(cli), name)
        assert found is not None
        each = found.commands if isinstance(found, click.Group) else {name: found}
        for verb, command in each.items():
            assert any("--json" in p.opts for p in command.params) is (verb not in silent), f"{name} {verb}"


def test_json_of_config(rmq: Commands, tmp_path: Path) -> None:
    """The manual's keys, and what was set where."""
    shown = json.loads(rmq("config", "show", "--json").out)["settings"]
    assert {"key": "port", "default": 8081, "allowed": "0 to 65535"} in shown
    path = tmp_path / "c.yaml"
    path.write_text("port: 9\ntopics: {a: {type: FIFO}}\n")
    checked = json.loads(rmq("config", "check", "--config", str(path), "--json").out)["settings"]
    assert checked == [
        {"origin": str(path), "key": "port", "value": 9},
        {"origin": str(path), "key": "topics", "value": {"a": {"type": "FIFO", "queues": 0}}},
    ]
    assert run(["config", "check", "--config", "/nowhere", "--json"]) == 2
