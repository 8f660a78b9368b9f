"""`rmq bench`, the small one for users, on a real server."""

import json
from collections.abc import Iterator

import pytest

from rmq.bench import NAME, Plan, Quantiles, quantiles, run
from rmq.cli import run as rmq
from rmq_proxy.messageclient import CallFailed
from tests.process import wire
from tests.process.client import Client
from tests.serving import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Of its own."""
    with Server("--flush", "memory") as made:
        yield made


def test_json_has_rates_and_quantiles(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that was sent has come back, and p50 is no more than p99."""
    assert rmq(["bench", "--endpoint", server.endpoint, "--seconds", "0.3", "--at-once", "8", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["plan"]["endpoint"] == server.endpoint
    assert shown["sent"] == shown["received"] > 8
    assert shown["left"] == 0
    for name in ("send_call", "receive_call", "one_send", "send_to_receive"):
        assert 0 < shown[name]["p50_ms"] <= shown[name]["p99_ms"]
    assert shown["send_per_s"] > 0
    assert shown["receive_per_s"] > 0


def test_people_get_a_table(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Four lines under their heads."""
    assert rmq(["bench", "--endpoint", server.endpoint, "--seconds", "0.1", "--batch", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["WHAT", "MESSAGES/S", "P50", "MS", "P99", "MS"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "send",
        "receive and ack",
        "send, one at a time",
        "send to receive, one at a time",
    ]


def test_what_a_stopped_run_has_left_is_taken_away(server: Server) -> None:
    """And not counted as this run's."""
    client = Client(server.endpoint)
    client.send(*(wire.message(NAME, b"left", f"left-{number}") for number in range(20)))
    report = run(Plan(server.endpoint, seconds=0.2, at_once=4))
    assert (report.left, report.received) == (0, report.sent)
    rest = client.receive(wire.receive(NAME, NAME, poll_ms=0))
    assert b"left" not in rest.bodies
    client.close()


def test_bodies_have_the_size_that_was_asked_for() -> None:
    """What has been consumed is still there for another group."""
    with Server("--flush", "memory") as server:
        run(Plan(server.endpoint, seconds=0.1, body_bytes=100, at_once=2))
        client = Client(server.endpoint)
        bodies = client.receive(wire.receive(NAME, "another")).bodies
        client.close()
    assert {len(body) for body in bodies} == {100}


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("127.0.0.1:9", "rmq: no server answers at 127.0.0.1:9; `rmq serve` starts one\n"),
        ("a b", "rmq: 'a b' is no endpoint; write HOST:PORT, such as localhost:8081\n"),
    ],
)
def test_no_server_is_one_line(endpoint: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What to do, and exit code 2: nothing could begin."""
    assert rmq(["bench", "--endpoint", endpoint, "--seconds", "0.1"]) == 2
    assert capsys.readouterr() == ("", said)


def test_a_server_that_refuses_is_quoted() -> None:
    """Profile strict makes no topic on use."""
    with Server("--flush", "memory", "--profile", "strict") as strict, pytest.raises(CallFailed) as caught:
        run(Plan(strict.endpoint, seconds=0.1))
    assert str(caught.value).startswith(f"{strict.endpoint} answers TOPIC_NOT_FOUND: ")


def test_quantiles_of_few_times_are_times_that_there_were() -> None:
    """No interpolation; none at all are zeros."""
    assert quantiles([0.003, 0.001, 0.002]) == Quantiles(2.0, 3.0)
    assert quantiles([number / 1000 for number in range(1, 201)]) == Quantiles(101.0, 199.0)
    assert quantiles([]) == Quantiles(0.0, 0.0)
