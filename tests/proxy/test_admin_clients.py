"""What an operator asks of one client: who is asked, with what, and how it is told that there is no answer."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from rmq.adminport import Whereabouts
from rmq.errors import ClientError, Code
from rmq_proto import admin as pb
from rmq_proto import v2
from rmq_proxy import telemetry as telemetry_module
from rmq_proxy.rpc import Inlet
from tests.proxy.admin_rig import AdminRig, Run, a_server, an_admin, failure, kept
from tests.proxy.rig import CLIENT, GROUP, TOPIC, RecordingOutlet, a_call, settings_command, subscribing
from tests.proxy.transports import Maker

Reply: TypeAlias = Callable[[v2.TelemetryCommand], v2.TelemetryCommand | None]
STACK = pb.PrintThreadStackTraceRequest(client_id=CLIENT)
VERIFY = pb.VerifyMessageRequest(group=GROUP, message_id="id-0-3", client_id=CLIENT)


class AnsweringOutlet(RecordingOutlet):
    """A client that answers each question as `reply` says; None: it ends its stream instead."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply
        self.inlet: Inlet | None = None

    def write(self, message: bytes) -> None:
        super().write(message)
        command = v2.TelemetryCommand.FromString(message)
        if command.HasField("settings"):
            return
        assert self.inlet is not None
        answer = self.reply(command)
        if answer is None:
            self.inlet.closed()
        else:
            self.inlet.message(answer.SerializeToString())


def connect(rig: AdminRig, reply: Reply, client_id: str = CLIENT, *topics: str) -> AnsweringOutlet:
    """A push consumer of the group in Java, as its headers say."""
    outlet = AnsweringOutlet(reply)
    call = a_call(client_id=client_id, x_mq_language="JAVA", x_mq_client_version="5.2.0")
    outlet.inlet = rig.telemetry.open(call, outlet)
    outlet.inlet.message(settings_command(subscribing(*(topics or (TOPIC,)))))
    return outlet


def answered(code: int, text: str = "", stack: str = "") -> Reply:
    """With that status, to whichever question."""

    def reply(command: v2.TelemetryCommand) -> v2.TelemetryCommand:
        answer = v2.TelemetryCommand()
        answer.status.code, answer.status.message = code, text
        if command.HasField("verify_message_command"):
            answer.verify_message_result.nonce = command.verify_message_command.nonce
        else:
            answer.thread_stack_trace.nonce = command.print_thread_stack_trace_command.nonce
            answer.thread_stack_trace.thread_stack_trace = stack
        return answer

    return reply


def leaves(_: v2.TelemetryCommand) -> None:
    """The client goes instead of answering."""


def silent(_: v2.TelemetryCommand) -> v2.TelemetryCommand:
    """The client does something, but does not answer."""
    return v2.TelemetryCommand()


def test_a_stack(make: Maker, run: Run) -> None:
    """As the client tells it, through the command line's client."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            connect(asked.rig, answered(20000, stack="main: sleeping\n\tat here"))
            assert await asked(lambda admin: admin.stack(CLIENT)) == "main: sleeping\n\tat here"

    run(scenario())


def test_a_verified_message(make: Maker, run: Run) -> None:
    """The consumer gets it as a first delivery that has no receipt handle; its own word is the answer."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            outlet = connect(asked.rig, answered(20000))
            told = await asked(lambda admin: admin.verify(GROUP, "id-0-3", CLIENT, TOPIC))
            assert (told.client_id, told.topic, told.status, told.text) == (CLIENT, TOPIC, "OK", "")
            message = outlet.commands()[-1].verify_message_command.message
            system = message.system_properties
            assert (message.topic.name, message.body, system.message_id) == (TOPIC, b"hello", "id-0-3")
            assert (system.delivery_attempt, system.HasField("receipt_handle")) == (1, False)
            assert asked.rig.admin.of("copies") == [("id-0-3", TOPIC)]
            asked.rig.admin.calls.clear()
            outlet.reply = answered(60000, "the listener failed")
            told = await asked(lambda admin: admin.verify(GROUP, "id-0-3"))
            assert (told.status, told.text) == ("FAILED_TO_CONSUME_MESSAGE", "the listener failed")

    run(scenario())


def test_who_cannot_answer_is_named_with_its_sdk(make: Maker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not know how, one that fails, one that is silent, one that leaves."""
    monkeypatch.setattr(telemetry_module, "COMMAND_TIMEOUT_S", 0.01)
    who = f"client {CLIENT} (JAVA 5.2.0)"
    cases: list[tuple[Reply, str, str]] = [
        (answered(50100), "FAILED_PRECONDITION", f"{who} cannot do that: it answered NOT_IMPLEMENTED; Java's SDK can"),
        (answered(50500), "FAILED_PRECONDITION", f"{who} cannot do that: it answered UNSUPPORTED; Java's SDK can"),
        (silent, "FAILED_PRECONDITION", f"{who}: the client did not answer within 0.01 s; it hangs, or its SDK"),
        (leaves, "NOT_FOUND", f"client {CLIENT} left before it answered"),
    ]

    async def scenario() -> None:
        for reply, code, text in cases:
            for method, request in (("PrintThreadStackTrace", STACK), ("VerifyMessage", VERIFY)):
                async with an_admin(make) as admin:
                    connect(admin.rig, reply)
                    refused = await admin.refused(method, request)
                    assert (refused[0], refused[1][: len(text)]) == (code, text)
        async with an_admin(make) as admin:
            connect(admin.rig, answered(50000, "out of memory"))
            refused = await admin.refused("PrintThreadStackTrace", STACK)
            assert refused == ("FAILED_PRECONDITION", f"{who} answered INTERNAL_ERROR: out of memory")

    run(scenario())


def test_a_client_that_names_no_sdk(make: Maker, run: Run) -> None:
    """Is said to be one."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            outlet = AnsweringOutlet(answered(50000))
            outlet.inlet = admin.rig.telemetry.open(a_call(), outlet)
            outlet.inlet.message(settings_command(subscribing(TOPIC)))
            _, text = await admin.refused("PrintThreadStackTrace", STACK)
            assert text == f"client {CLIENT} (of an SDK that it does not name) answered INTERNAL_ERROR"

    run(scenario())


def test_who_is_not_there(make: Maker, run: Run) -> None:
    """Never was, has no stream, is of another group; where none is named: nobody of the group has a stream."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            code, text = await admin.refused("PrintThreadStackTrace", STACK)
            assert (code, "there is no client" in text) == ("NOT_FOUND", True)
            admin.rig.sessions.adopt(GROUP, CLIENT)
            code, text = await admin.refused("PrintThreadStackTrace", STACK)
            assert (code, "has no command stream open" in text) == ("NOT_FOUND", True)
            code, text = await admin.refused("VerifyMessage", pb.VerifyMessageRequest(group=GROUP, message_id="x"))
            assert (code, text) == ("NOT_FOUND", f"no consumer of group {GROUP} is connected")
            connect(admin.rig, answered(20000))
            of_other = pb.VerifyMessageRequest(group="other", message_id="x", client_id=CLIENT)
            code, text = await admin.refused("VerifyMessage", of_other)
            assert (code, text) == ("NOT_FOUND", f"client {CLIENT} is no consumer of group other")

    run(scenario())


def test_any_consumer_of_the_group_with_a_stream_is_asked(make: Maker, run: Run) -> None:
    """Where none is named."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.rig.sessions.adopt(GROUP, "without")
            admin.rig.sessions.adopt("other", "c0")
            connect(admin.rig, answered(20000), "c1")
            request = pb.VerifyMessageRequest(group=GROUP, message_id="x")
            told = await admin.ask("VerifyMessage", request, pb.VerifyMessageResponse.FromString)
            assert told.client_id == "c1"

    run(scenario())


def test_a_message_that_is_not_there_or_not_the_consumers(make: Maker, run: Run) -> None:
    """In any topic, in the named one; or of a topic that the client does not read."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            connect(admin.rig, answered(20000))
            admin.port.answers["copies"] = []
            code, text = await admin.refused("VerifyMessage", VERIFY)
            assert (code, text) == ("NOT_FOUND", "there is no message id-0-3 in any topic")
            named = pb.VerifyMessageRequest(group=GROUP, message_id="x", client_id=CLIENT, topic="t")
            assert (await admin.refused("VerifyMessage", named))[1] == "there is no message x in topic t"
            admin.port.answers = {"whereabouts": Whereabouts("refunds", 0, [])}
            code, text = await admin.refused("VerifyMessage", VERIFY)
            assert code == "FAILED_PRECONDITION"
            assert text.startswith(f"client {CLIENT} reads {TOPIC}, but the message is of refunds")

    run(scenario())


def test_a_client_whose_subscriptions_are_not_known_is_asked_all_the_same(make: Maker, run: Run) -> None:
    """After a restart it may have said no more than that it lives: its SDK knows better."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            outlet = AnsweringOutlet(answered(20000))
            outlet.inlet = admin.rig.telemetry.open(a_call(), outlet)
            admin.rig.sessions.adopt(GROUP, CLIENT)
            told = await admin.ask("VerifyMessage", VERIFY, pb.VerifyMessageResponse.FromString)
            assert (told.status, told.topic) == ("OK", TOPIC)

    run(scenario())


def test_where_a_message_is(make: Maker, run: Run) -> None:
    """Each copy without its body, and what each group has made of it."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            asked.rig.admin.answers["copies"] = [kept(3, body=b"12345", TAGS="a")]
            [copy] = await asked(lambda admin: admin.locate("id-0-3"))
            assert (copy.message.offset, copy.message.tag, copy.message.body, copy.body_bytes) == (3, "a", b"", 5)
            assert (copy.sent_to, copy.due_ms) == (TOPIC, 0)
            assert [(one.group, one.state) for one in copy.groups] == [(GROUP, "WAITING")]
            asked.rig.admin.answers["copies"] = ClientError(Code.BAD_REQUEST, "name the message's topic")
            error = await failure(asked.endpoint, lambda admin: admin.locate("x"))
            assert (error.kind, error.text) == ("invalid", "name the message's topic")

    run(scenario())
