"""The commands against a real server, as their users run them: what the fakes of the other tests promise."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from rmq_proxy.admin_client import AdminClient
from rmq_proxy.messageclient import MessageClient
from tests.processes import started
from tests.rmq.commands.rig import Commands
from tests.serving import Server

T = TypeVar("T")
WITHIN_S = 30.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for this module; each test has topics of its own."""
    with Server("--flush", "memory", "--manual-clock", data=tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def here(rmq: Commands, running: Server, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands that find that server in their environment."""
    monkeypatch.setenv("RMQ_ENDPOINT", running.endpoint)
    return rmq


def test_a_topic_s_life(here: Commands) -> None:
    """Made, seen, changed, deleted; each mistake is told."""
    assert here("topic", "create", "life", "--queues", "2").out == "topic life: NORMAL, 2 queues, 0 messages\n"
    assert "life is there already" in here.fails("topic", "create", "life", code=1)
    assert here("topic", "update", "life", "--queues", "3").out == "topic life: NORMAL, 3 queues, 0 messages\n"
    assert "can only get more" in here.fails("topic", "update", "life", "--queues", "1", code=2)
    assert "life" in here("topic", "list").out
    assert len(json.loads(here("topic", "show", "life", "--json").out)["queues"]) == 3
    assert here("topic", "delete", "life", "--yes").out == "deleted topic life\n"
    assert "there is no topic life" in here.fails("topic", "show", "life", code=1)
    assert here("topic", "update", "life", "--queues", "3").code == 1


def test_a_message_is_traced(here: Commands) -> None:
    """By its id alone: where the server has it, and what a client wrote into the trace topic about it."""
    here("topic", "create", "traced", "--queues", "1")
    message_id = json.loads(here("message", "send", "traced", "hello", "--json").out)["message_id"]
    assert "official gRPC clients write no trace records" in here("message", "trace", message_id).err
    fields = ("Pub", 1_700_000_000_000, "R", "P", "traced", message_id, "", "", "h", 5, 3, 0, "", "true")
    record = "\x01".join(map(str, fields)) + "\x02"
    assert here("message", "send", "RMQ_SYS_TRACE_TOPIC", "-", "--key", message_id, stdin=record.encode()).code == 0
    traced = json.loads(here("message", "trace", message_id, "--json").out)
    assert [(copy["topic"], copy["offset"], copy["body_bytes"]) for copy in traced["copies"]] == [("traced", 0, 5)]
    assert [(event["event"], event["cost_ms"]) for event in traced["events"]] == [("sent", 3)]
    assert "TRACE_TOPIC" not in here("topic", "list").out
    assert "is not stored here" in here.fails("message", "trace", "01AB", code=1)


def test_a_client_that_is_not_there_is_not_asked(here: Commands) -> None:
    """One line that says where to look."""
    assert "`rmq client list` shows who is there" in here.fails("client", "stack", "nobody", code=1)
    assert "there is no group nobody" in here.fails("message", "verify", "01AB", "--group", "nobody", code=1)


def test_messages_are_sent_and_seen(here: Commands) -> None:
    """In order, from both ends, and by what follows them."""
    here("topic", "create", "seen", "--queues", "2")
    for number in range(5):
        assert here("message", "send", "seen", f"m{number}", "--tag", "ab"[number % 2]).code == 0

    def peeked(*args: str) -> list[str]:
        return [one["body"] for one in json.loads(here("message", "peek", "seen", *args, "--json").out)["messages"]]

    assert peeked() == ["m0", "m1", "m2", "m3", "m4"]
    assert peeked("--first", "2") == ["m0", "m1"]
    assert peeked("--last", "2") == ["m3", "m4"]
    assert peeked("--filter", "b") == ["m1", "m3"]
    assert peeked("--from", "end") == []
    assert here("message", "peek", "nowhere").code == 1


def test_tail_shows_what_is_sent_while_it_runs(here: Commands) -> None:
    """Without a gap, and nothing that was there before. We send until it has seen enough."""
    here("topic", "create", "tailed", "--queues", "1")
    here("message", "send", "tailed", "before")
    command = [sys.executable, "-m", "rmq", "message", "tail", "tailed", "--count", "3", "--json"]
    with started(command) as tail:
        for number, _ in enumerate(until_timeout()):
            if tail.poll() is not None:
                break
            here("message", "send", "tailed", str(number))
        out, err = tail.communicate(timeout=WITHIN_S)
    numbers = [int(json.loads(line)["body"]) for line in out.splitlines()]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert (tail.returncode, err) == (0, "")


def test_ctrl_c_ends_tail_in_peace(here: Commands) -> None:
    """Code 0, no traceback."""
    here("topic", "create", "endless")
    with started([sys.executable, "-m", "rmq", "message", "tail", "endless"]) as tail:
        assert tail.stdout is not None
        for _ in until_timeout():
            here("message", "send", "endless", "x")
            if select.select([tail.stdout], [], [], 0.05)[0]:
                break
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=WITHIN_S)
    assert all(line.endswith(" x") for line in out.splitlines())
    assert (tail.returncode, err) == (0, "")


def until_timeout() -> Iterator[None]:
    """Goes on for WITHIN_S; whoever gets there has not seen what it waited for."""
    end_s = time.monotonic() + WITHIN_S
    while time.monotonic() < end_s:
        yield


def test_a_group_s_life(here: Commands) -> None:
    """Made, moved, changed, deleted."""
    here("topic", "create", "read", "--queues", "1")
    here("message", "send", "read", "x")
    said = here("group", "create", "readers", "--attempts-max", "2", "--retry", "1s,2s").out
    assert said == "group readers: 2 deliveries at most, again after 1 s, 2 s\n"
    assert here("group", "reset-offset", "readers", "read", "--to", "begin").out.endswith("1 messages lie before it\n")
    [topic] = json.loads(here("group", "show", "readers", "--json").out)["topics"]
    assert (topic["topic"], topic["lag_messages"]) == ("read", 1)
    assert here("group", "reset-offset", "readers", "read", "--to", "end").out.endswith("0 messages lie before it\n")
    assert here("group", "update", "readers", "--attempts-max", "3").out.startswith("group readers: 3 deliveries")
    assert "readers" in here("group", "list").out
    assert here("dlq", "list", "readers").err == "group readers has no dead letters\n"
    assert here("dlq", "replay", "readers").code == 0
    assert here("group", "delete", "readers", "--yes").code == 0
    assert here("group", "show", "readers").code == 1
    assert here("dlq", "list", "readers").code == 1


def test_what_a_consumer_holds_is_seen(here: Commands, running: Server) -> None:
    """Who it is, and until when it has which message."""
    here("topic", "create", "held", "--queues", "1")
    for body in ("first", "second"):
        here("message", "send", "held", body)

    def look() -> tuple[dict[str, Any], dict[str, Any]]:
        group = json.loads(here("group", "show", "holders", "--leases", "--json").out)
        clients = json.loads(here("client", "list", "--group", "holders", "--json").out)
        return group, clients

    group, clients = asyncio.run(while_held(running.endpoint, "held", "holders", look))
    [topic] = group["topics"]
    assert (topic["lag_messages"], topic["leased"], topic["ready"]) == (1, 1, 0)
    assert [(lease["offset"], lease["attempt"]) for lease in topic["leases"]] == [(0, 1)]
    [client] = clients["clients"]
    assert (client["client_id"], client["type"], client["groups"]) == ("holder", "SIMPLE_CONSUMER", ["holders"])
    assert group["consumers"][0]["client_id"] == "holder"


def test_dead_letters_are_seen_and_delivered_again(here: Commands, running: Server) -> None:
    """Once: then they are no dead letters any more."""
    here("topic", "create", "deadly", "--queues", "1")
    here("group", "create", "mortals", "--attempts-max", "1")
    sent = json.loads(here("message", "send", "deadly", "poison", "--json").out)["message_id"]

    def die() -> None:
        with AdminClient(running.endpoint) as client:
            client.advance(3_600_000)

    asyncio.run(while_held(running.endpoint, "deadly", "mortals", die))
    [letter] = json.loads(here("dlq", "list", "mortals", "--json").out)["dead_letters"]
    assert (letter["message_id"], letter["origin_topic"], letter["body"]) == (sent, "deadly", "poison")
    assert here("dlq", "replay", "mortals", "--yes").out == "delivered 1 dead letters of group mortals again\n"
    assert json.loads(here("dlq", "list", "mortals", "--json").out) == {"dead_letters": []}
    assert asyncio.run(while_held(running.endpoint, "deadly", "mortals", lambda: True))


async def while_held(endpoint: str, topic: str, group: str, look: Callable[[], T]) -> T:
    """What `look` sees while a consumer has one message of the topic."""
    client = MessageClient(endpoint, topic, group, "holder")
    try:
        await client.start()
        assert len(await client.receive(1, 20.0, 60)) == 1
        return await asyncio.to_thread(look)
    finally:
        await client.close()


def test_a_message_is_found_by_id_and_by_key(here: Commands) -> None:
    """And what is not there is not."""
    here("topic", "create", "found")
    sent = json.loads(here("message", "send", "found", "it", "--key", "k1", "--key", "k2", "--json").out)["message_id"]
    for args in (["--id", sent], ["--key", "k1"], ["--key", "k2"]):
        [one] = json.loads(here("message", "get", "found", *args, "--json").out)["messages"]
        assert (one["message_id"], one["keys"], one["body"]) == (sent, ["k1", "k2"], "it")
    assert here.fails("message", "get", "found", "--key", "k3", code=1) == "topic found has no message with key k3"


def test_a_server_is_waited_for_and_found_healthy(here: Commands, running: Server) -> None:
    """Then a shell has its address."""
    assert here("wait", "--timeout", "30").out == f"{running.endpoint} is serving\n"
    assert here("health").code == 0
    assert f"export ROCKETMQ_ENDPOINT={running.endpoint}\n" in here("env").out
    assert here("client", "list").code == 0


def test_doctor_knows_our_own_server(here: Commands, running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """By asking it."""
    monkeypatch.delenv("RMQ_ENDPOINT")
    with AdminClient(running.endpoint) as client:
        version = client.describe().version
    checked = json.loads(here("doctor", "--port", str(running.port), "--json").out)["checks"]
    assert checked[1]["found"] == f"rmq {version} (process {running.pid}) serves on port {running.port}"


def test_names_are_completed_by_a_shell(here: Commands) -> None:
    """Through click's own protocol, in a process of its own."""
    here("topic", "create", "completed")
    words = {"_RMQ_COMPLETE": "bash_complete", "COMP_WORDS": "rmq topic show comp", "COMP_CWORD": "3"}
    command = [sys.executable, "-m", "rmq"]
    done = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, timeout=WITHIN_S)
    assert (done.stdout, done.stderr) == ("plain,completed\n", "")


def test_help_loads_nothing_heavy() -> None:
    """It has to be there in a blink: no gRPC, protobuf, LMDB, rich, YAML or asyncio."""
    program = (
        "import sys; from rmq.cli import run; run(['--help']); run(['topic', '--help']); run(['store', '--help'])\n"
        "heavy = {'grpc', 'google.protobuf', 'lmdb', 'rich', 'yaml', 'asyncio', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WITHIN_S)
    assert (done.returncode, done.stderr) == (0, "")
