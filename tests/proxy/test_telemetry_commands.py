"""What the broker can ask of clients over their Telemetry streams: transaction checks, verification, thread stacks."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from rmq.errors import ClientError, Code
from rmq_proto import v2
from rmq_proxy import telemetry as telemetry_module
from tests.proxy.rig import (
    CLIENT,
    GROUP,
    TOPIC,
    RecordingOutlet,
    Rig,
    a_call,
    delivered,
    publishing,
    settings_command,
    subscribing,
)

Run: TypeAlias = Callable[[Awaitable[None]], None]


def test_transaction_check() -> None:
    """A check goes to the producer of the topic whose settings came last and which has a stream; without a status."""
    rig = Rig()
    outlets: dict[str, RecordingOutlet] = {}
    for client_id in ("p1", "p2", "other"):
        inlet, outlets[client_id] = rig.stream(a_call(client_id=client_id))
        inlet.message(settings_command(publishing("elsewhere" if client_id == "other" else TOPIC)))
    inlet, _ = rig.stream(a_call(client_id="gone"))
    inlet.message(settings_command(publishing(TOPIC)))
    inlet.closed()
    assert rig.telemetry.check_transaction(TOPIC, delivered(handle="", TRAN_MSG="true"), "tx-1")
    assert [len(outlet.written) for outlet in outlets.values()] == [1, 2, 1]
    command = outlets["p2"].commands()[1]
    assert not command.HasField("status")
    check = command.recover_orphaned_transaction_command
    assert check.transaction_id == "tx-1"
    assert (check.message.topic.name, check.message.body) == (TOPIC, b"hello")
    assert check.message.system_properties.message_type == v2.TRANSACTION
    assert not check.message.system_properties.HasField("receipt_handle")


def test_each_check_of_a_transaction_goes_to_another_producer() -> None:
    """Where one does not answer, the one before it may know."""
    rig = Rig()
    outlets = []
    for client_id in ("p1", "p2", "p3"):
        inlet, outlet = rig.stream(a_call(client_id=client_id))
        inlet.message(settings_command(publishing(TOPIC)))
        outlets.append(outlet)
    for attempt in (1, 2, 3, 4):
        message = delivered(handle="", TRAN_MSG="true")
        message.attempt = attempt
        assert rig.telemetry.check_transaction(TOPIC, message, f"tx-{attempt}")
    asked = [[c.recover_orphaned_transaction_command.transaction_id for c in o.commands()[1:]] for o in outlets]
    assert asked == [["tx-3"], ["tx-2"], ["tx-1", "tx-4"]]


def test_the_broker_hears_of_producers() -> None:
    """With each settings of one, under stored names: it may be asked from now on."""
    rig = Rig()
    inlet, _ = rig.stream()
    inlet.message(settings_command(publishing(TOPIC, "more")))
    inlet.message(settings_command(publishing()))
    assert rig.broker.of("producing") == [({TOPIC, "more"},), (set(),)]


def test_transaction_check_of_a_namespace() -> None:
    """The message in a check names namespace and topic as the producer does."""
    rig = Rig()
    settings = publishing(TOPIC)
    settings.publishing.topics[0].resource_namespace = "ns"
    inlet, outlet = rig.stream()
    inlet.message(settings_command(settings))
    assert rig.telemetry.check_transaction("ns%orders", delivered("ns%orders", handle=""), "tx-1")
    topic = outlet.commands()[1].recover_orphaned_transaction_command.message.topic
    assert (topic.resource_namespace, topic.name) == ("ns", TOPIC)


def test_transaction_check_without_a_producer() -> None:
    """With nobody to ask the broker is told so; a consumer is nobody."""
    rig = Rig()
    rig.tell(subscribing(TOPIC))
    assert not rig.telemetry.check_transaction(TOPIC, delivered(), "tx-1")


def test_the_newest_stream_gets_the_commands() -> None:
    """Of several streams of one client the newest is used; when it ends, the one before."""
    rig = Rig()
    streams = [rig.stream() for _ in range(2)]
    streams[0][0].message(settings_command(publishing(TOPIC)))
    assert rig.telemetry.check_transaction(TOPIC, delivered(), "tx-1")
    assert [len(outlet.written) for _, outlet in streams] == [1, 1]
    streams[1][0].closed()
    assert rig.telemetry.check_transaction(TOPIC, delivered(), "tx-1")
    assert [len(outlet.written) for _, outlet in streams] == [2, 1]
    streams[0][0].closed()
    assert not rig.telemetry.check_transaction(TOPIC, delivered(), "tx-1")
    assert all(outlet.ended is None for _, outlet in streams)


VERIFIED = [
    (20000, None),
    (60000, Code.FAILED_TO_CONSUME_MESSAGE),
    (60999, Code.INTERNAL_ERROR),
    (40016, Code.MESSAGE_CORRUPTED),
    (50100, Code.NOT_IMPLEMENTED),
]


@pytest.mark.parametrize(("answered", "code"), VERIFIED)
def test_verify(answered: int, code: Code | None, run: Run) -> None:
    """A client consumes one message on request; None is fine, else the client's own code and text."""

    async def scenario() -> None:
        rig = Rig()
        inlet, outlet = rig.stream()
        verdict = rig.telemetry.verify(GROUP, CLIENT, delivered())
        question = outlet.commands()[0].verify_message_command
        assert question.message.body == b"hello"
        reply = v2.TelemetryCommand()
        reply.status.code, reply.status.message = answered, "said the client"
        reply.verify_message_result.nonce = question.nonce
        inlet.message(reply.SerializeToString())
        inlet.message(reply.SerializeToString())
        error = await verdict
        assert (error and (error.code, error.text)) == (code and (code, "said the client"))

    run(scenario())


@pytest.mark.parametrize("with_status", [True, False])
def test_stack(with_status: bool, run: Run) -> None:
    """A client tells its stack, with a status or, as C++ does, without; another client's answer does not count."""

    async def scenario() -> None:
        rig = Rig()
        inlet, outlet = rig.stream()
        other, _ = rig.stream(a_call(client_id="other"))
        stack = rig.telemetry.stack(GROUP, CLIENT)
        reply = v2.TelemetryCommand()
        reply.thread_stack_trace.nonce = outlet.commands()[0].print_thread_stack_trace_command.nonce
        reply.thread_stack_trace.thread_stack_trace = "forged"
        other.message(reply.SerializeToString())
        reply.thread_stack_trace.thread_stack_trace = "main: sleeping"
        if with_status:
            reply.status.code = 20000
        inlet.message(reply.SerializeToString())
        assert await stack == "main: sleeping"

    run(scenario())


def test_stack_refused(run: Run) -> None:
    """A client that cannot tell says so, and the asker gets its code."""

    async def scenario() -> None:
        rig = Rig()
        inlet, outlet = rig.stream()
        stack = rig.telemetry.stack(GROUP, CLIENT)
        reply = v2.TelemetryCommand()
        reply.status.code = 50100
        reply.thread_stack_trace.nonce = outlet.commands()[0].print_thread_stack_trace_command.nonce
        inlet.message(reply.SerializeToString())
        with pytest.raises(ClientError) as caught:
            await stack
        assert caught.value.code is Code.NOT_IMPLEMENTED

    run(scenario())


def test_nobody_to_ask(run: Run) -> None:
    """A client without a stream is NOT_FOUND."""

    async def scenario() -> None:
        with pytest.raises(ClientError) as caught:
            await Rig().telemetry.stack(GROUP, CLIENT)
        assert caught.value.code is Code.NOT_FOUND

    run(scenario())


def test_no_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not answer in time is PROXY_TIMEOUT, and its late answer is dropped."""

    async def scenario() -> None:
        rig = Rig()
        inlet, outlet = rig.stream()
        with pytest.raises(ClientError) as caught:
            await rig.telemetry.stack(GROUP, CLIENT)
        assert caught.value.code is Code.PROXY_TIMEOUT
        reply = v2.TelemetryCommand()
        reply.thread_stack_trace.nonce = outlet.commands()[0].print_thread_stack_trace_command.nonce
        inlet.message(reply.SerializeToString())
        assert outlet.ended is None

    monkeypatch.setattr(telemetry_module, "COMMAND_TIMEOUT_S", 0.01)
    run(scenario())


def test_a_refusal_as_nodes_client_writes_it(run: Run) -> None:
    """It sends the question back, with its status, instead of a result."""

    async def scenario() -> None:
        rig = Rig()
        inlet, outlet = rig.stream()
        verdict = rig.telemetry.verify(GROUP, CLIENT, delivered())
        reply = v2.TelemetryCommand()
        reply.status.code = 50100
        reply.verify_message_command.nonce = outlet.commands()[0].verify_message_command.nonce
        inlet.message(reply.SerializeToString())
        error = await verdict
        assert error is not None
        assert error.code is Code.NOT_IMPLEMENTED

    run(scenario())


def test_a_client_that_leaves_is_waited_for_no_longer(run: Run) -> None:
    """As its last stream ends; other clients' questions go on, and one of its streams less changes nothing."""

    async def scenario() -> None:
        rig = Rig()
        first, _ = rig.stream()
        second, _ = rig.stream()
        rig.stream(a_call(client_id="other"))
        stack, others = rig.telemetry.stack(GROUP, CLIENT), rig.telemetry.stack(GROUP, "other")
        second.closed()
        assert not stack.done()
        first.closed()
        with pytest.raises(ClientError) as caught:
            await stack
        assert caught.value.code is Code.NOT_FOUND
        assert not others.done()
        others.cancel()

    run(scenario())


def test_an_answer_and_the_end_in_one_turn(run: Run) -> None:
    """What a client answered before it left counts."""

    async def scenario() -> None:
        rig = Rig()
        inlet, outlet = rig.stream()
        stack = rig.telemetry.stack(GROUP, CLIENT)
        reply = v2.TelemetryCommand()
        reply.thread_stack_trace.nonce = outlet.commands()[0].print_thread_stack_trace_command.nonce
        reply.thread_stack_trace.thread_stack_trace = "main: leaving"
        inlet.message(reply.SerializeToString())
        inlet.closed()
        assert await stack == "main: leaving"

    run(scenario())


def test_only_javas_clients_are_told_to_reconnect() -> None:
    """On every stream that they hold; the others ignore it at best."""
    rig = Rig()
    told = [rig.stream(a_call(x_mq_language="JAVA"))[1] for _ in range(2)]
    spared = [rig.stream(a_call(client_id=name, x_mq_language=name))[1] for name in ("GO", "HTTP", "PYTHON")]
    spared.append(rig.stream(a_call(client_id="unnamed"))[1])
    assert rig.telemetry.reconnect() == 2
    nonces = [outlet.commands()[0].reconnect_endpoints_command.nonce for outlet in told]
    assert len(set(nonces)) == 2
    assert all(nonces)
    assert [outlet.written for outlet in spared] == [[]] * 4
