"""`rmq env`."""

import json
import shlex
import socket
import subprocess
import threading

import pytest

from rmq.commands import env
from tests.rmq.commands.rig import Commands


@pytest.fixture
def speaks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the server is found to speak: the last one counts."""
    found = ["tls"]
    monkeypatch.setattr(env, "_speaks", lambda host, port: found[-1])
    return found


def test_what_is_printed_is_for_a_shell(rmq: Commands, speaks: list[str]) -> None:
    """As `eval "$(rmq env)"` sees it; comments are skipped."""
    speaks.append("plaintext")
    script = rmq("env", "--endpoint", "[::1]:99").out
    shown = subprocess.run(
        ["sh", "-c", f'eval {shlex.quote(script)}; echo "$ROCKETMQ_ENDPOINT $RMQ_ENDPOINT"'],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert shown.stdout == "[::1]:99 [::1]:99\n"


def test_a_server_with_tls_needs_no_hints(rmq: Commands, speaks: list[str]) -> None:
    """Clients that begin with TLS just work."""
    lines = rmq("env").out.splitlines()
    assert lines == [
        '# what programs read: eval "$(rmq env)"',
        "export ROCKETMQ_ENDPOINT=localhost:8081",
        "export RMQ_ENDPOINT=localhost:8081",
    ]


def test_a_plaintext_server_needs_them(rmq: Commands, speaks: list[str]) -> None:
    """For the four clients that begin with TLS."""
    speaks.append("plaintext")
    out = rmq("env").out
    for word in ("Java", "Go: env rocketmq.client.enableSsl=false", "C#", "C++"):
        assert f"#   {word}" in out


def test_a_server_that_is_not_there_is_said(rmq: Commands, speaks: list[str]) -> None:
    """The exports are right all the same."""
    speaks.append("")
    out = rmq("env").out
    assert "# nothing answers at localhost:8081 just now: start `rmq serve`" in out
    assert "export ROCKETMQ_ENDPOINT=localhost:8081" in out


@pytest.mark.parametrize(
    ("no_proxy", "exported"),
    [("", "localhost"), ("a, b", "a,b,localhost"), ("localhost", None), ("*", None)],
)
def test_where_there_is_a_proxy_the_server_is_excepted(
    rmq: Commands, speaks: list[str], monkeypatch: pytest.MonkeyPatch, no_proxy: str, exported: str | None
) -> None:
    """Clients of gRPC would send even calls to localhost through it."""
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    variables = json.loads(rmq("env", "--json").out)["variables"]
    assert variables.get("no_proxy") == variables.get("NO_PROXY") == exported


def test_as_json(rmq: Commands, speaks: list[str]) -> None:
    """The same for programs."""
    found = json.loads(rmq("env", "--json").out)
    assert found["variables"] == {"ROCKETMQ_ENDPOINT": "localhost:8081", "RMQ_ENDPOINT": "localhost:8081"}
    assert (found["answers"], found["tls"], sorted(found["tls_off"])) == (True, True, ["C#", "C++", "Go", "Java"])


def test_an_endpoint_that_is_none(rmq: Commands) -> None:
    """One line."""
    assert "is no endpoint" in rmq.fails("env", "--endpoint", "a b", code=2)


def test_a_server_that_does_not_shake_hands_speaks_plaintext() -> None:
    """It answers a TLS hello with something else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_in_plaintext, args=(listener,))
        thread.start()
        assert env._speaks("127.0.0.1", listener.getsockname()[1]) == "plaintext"
        thread.join(10)
    assert env._speaks("127.0.0.1", 1) == ""


def _answer_in_plaintext(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(b"\0\0\0\4\0\0\0\0\0")
