"""What official push consumers answer when the command line asks them; what facts say of each SDK is held here.

verify   java consumes; go and node refuse (NOT_IMPLEMENTED); python is silent until the 5 s are over
stack    java and go tell theirs, node invents one, python is silent
"""

import json
import subprocess
import sys

import pytest

from rmq_proxy.admin_client import AdminClient, AdminError
from tests.clients.builders import Language
from tests.clients.conftest import in_the_clear
from tests.clients.harness import Session, eventually
from tests.serving import Server

VERIFIES = {"java"}
pytestmark = in_the_clear
STACKS = {"java": "Thread", "go": "goroutine", "node": "mock stack"}
SILENT = {"python"}


@pytest.fixture(autouse=True)
def needs_push(language: Language) -> None:
    """The commands are for push consumers."""
    if not language.pushes:
        pytest.skip(f"the {language.name} driver has no push consumer")


def client_of(admin: AdminClient, group: str) -> str:
    """The id of the one consumer of the group, once its stream is open."""
    eventually(lambda: [one.stream for one in admin.clients(group)] == [True], 20, f"a stream of {group}")
    [found] = admin.clients(group)
    return found.client_id


def refused(admin: AdminClient, group: str, message_id: str, client_id: str) -> str:
    """Why it does not consume it."""
    with pytest.raises(AdminError) as caught:
        admin.verify(group, message_id, client_id)
    return caught.value.text


def test_a_consumer_verifies_a_message(session: Session, language: Language, server: Server) -> None:
    """Java's runs its listener once more, and its verdict comes back; the others' refusals name the client."""
    topic = group = f"verified-{language.name}"
    producer, consumer = session.producer(topic), session.push(group, topic)
    message_id = producer.send(b"once more")
    consumer.until(1)
    with AdminClient(server.endpoint, timeout_s=20) as admin:
        client_id = client_of(admin, group)
        if language.name in VERIFIES:
            assert admin.verify(group, message_id, client_id).status == "OK"
            assert [one.message_id for one in consumer.until(2)] == [message_id] * 2
            assert [one.attempt for one in consumer.poll()] == [1, 1]
        elif language.name in SILENT:
            assert "did not answer within 5 s" in refused(admin, group, message_id, client_id)
        else:
            assert "it answered NOT_IMPLEMENTED" in refused(admin, group, message_id, client_id)


def test_a_listener_that_refuses_is_told(session: Session, language: Language, server: Server) -> None:
    """FAILED_TO_CONSUME_MESSAGE; the group's own deliveries go on as before."""
    if language.name not in VERIFIES:
        pytest.skip(f"the {language.name} client does not verify")
    topic = group = f"unverified-{language.name}"
    producer, consumer = session.producer(topic), session.push(group, topic, nack_first=1)
    message_id = producer.send(b"not now")
    consumer.until(2)
    with AdminClient(server.endpoint, timeout_s=20) as admin:
        told = admin.verify(group, message_id, client_of(admin, group))
        assert told.status == "FAILED_TO_CONSUME_MESSAGE"
        assert [one.attempt for one in consumer.until(3)] == [1, 2, 1]
        eventually(lambda: not admin.groups(group, leases=True)[0].topics[0].leases, 10, "both deliveries are settled")


def test_a_consumer_tells_its_stack(session: Session, language: Language, server: Server) -> None:
    """As `rmq client stack` shows it, or one line that says that this client cannot."""
    topic = group = f"stack-{language.name}"
    session.push(group, topic)
    with AdminClient(server.endpoint, timeout_s=20) as admin:
        client_id = client_of(admin, group)
    command = [sys.executable, "-m", "rmq", "client", "stack", client_id, "--endpoint", server.endpoint, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if language.name in STACKS:
        assert STACKS[language.name] in json.loads(done.stdout)["stack"]
    else:
        assert (done.returncode, "did not answer within 5 s" in done.stderr) == (1, True)
