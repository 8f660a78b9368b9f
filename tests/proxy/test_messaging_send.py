"""SendMessage: every limit with its code, what becomes of each field, and the shape of the answer."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rmq.errors import ClientError, Code
from rmq.message import MessageType, SendResult
from rmq_proto import v2
from rmq_proxy.rpc import GrpcCode, RpcError
from rmq_proxy.validate import RESERVED, Limits
from rmq_store.record import decode_properties
from tests.proxy.rig import NOW_MS, TOPIC, Rig, a_call, a_message, sending

Change = Callable[[v2.Message], None]


def send(rig: Rig, *messages: v2.Message) -> v2.SendMessageResponse:
    """Sends, and is answered at once."""
    return rig.ask(v2.SendMessageResponse.FromString, "SendMessage", sending(*messages))


def body(size: int) -> Change:
    """A body of so many bytes."""

    def change(message: v2.Message) -> None:
        message.body = b"x" * size

    return change


def prop(key: str, value: str = "v") -> Change:
    """One user property."""

    def change(message: v2.Message) -> None:
        message.user_properties[key] = value

    return change


def props(count: int, value: str = "v") -> Change:
    """So many user properties."""

    def change(message: v2.Message) -> None:
        for number in range(count):
            message.user_properties[f"k{number:04}"] = value

    return change


def system(**fields: object) -> Change:
    """Sets system properties: numbers, text, or seconds for times."""

    def change(message: v2.Message) -> None:
        for name, value in fields.items():
            field = getattr(message.system_properties, name)
            if hasattr(field, "seconds"):
                field.seconds = value
            elif name == "keys":
                field.extend(value)
            else:
                setattr(message.system_properties, name, value)

    return change


NOW_S = NOW_MS // 1000
DELAY_S = 40 * 86_400
INT64 = 2**63 - 1

REFUSED = [
    ("empty body", body(0), Code.MESSAGE_BODY_EMPTY),
    ("body one byte too long", body(4_194_305), Code.MESSAGE_BODY_TOO_LARGE),
    ("129 user properties", props(129), Code.MESSAGE_PROPERTIES_TOO_LARGE),
    ("properties over 16384 bytes", prop("k", "v" * 16_384), Code.MESSAGE_PROPERTIES_TOO_LARGE),
    ("the same in UTF-8", prop("k", "\u00e9" * 8192), Code.MESSAGE_PROPERTIES_TOO_LARGE),
    ("tag counts into the size", system(tag="t" * 16_385), Code.MESSAGE_PROPERTIES_TOO_LARGE),
    ("keys count into the size", system(keys=["k" * 8193, "l" * 8192]), Code.MESSAGE_PROPERTIES_TOO_LARGE),
    ("an id that no record holds", system(message_id="i" * 32_001), Code.MESSAGE_PROPERTIES_TOO_LARGE),
    ("empty property key", prop(""), Code.ILLEGAL_MESSAGE_PROPERTY_KEY),
    ("control character in a key", prop("a\x01b"), Code.ILLEGAL_MESSAGE_PROPERTY_KEY),
    ("control character in a value", prop("a", "b\x9fc"), Code.ILLEGAL_MESSAGE_PROPERTY_KEY),
    ("control character in the trace", system(trace_context="a\x02"), Code.ILLEGAL_MESSAGE_PROPERTY_KEY),
    ("blank tag", system(tag="  "), Code.ILLEGAL_MESSAGE_TAG),
    ("tag with a bar", system(tag="a|b"), Code.ILLEGAL_MESSAGE_TAG),
    ("control character in the tag", system(tag="a\n"), Code.ILLEGAL_MESSAGE_TAG),
    ("blank key", system(keys=["a", " "]), Code.ILLEGAL_MESSAGE_KEY),
    ("control character in a key", system(keys=["a\x7f"]), Code.ILLEGAL_MESSAGE_KEY),
    ("no message id", system(message_id=""), Code.ILLEGAL_MESSAGE_ID),
    ("blank message id", system(message_id=" "), Code.ILLEGAL_MESSAGE_ID),
    ("control character in the id", system(message_id="a\x01"), Code.ILLEGAL_MESSAGE_ID),
    ("blank message group", system(message_group=" "), Code.ILLEGAL_MESSAGE_GROUP),
    ("message group of 64 bytes", system(message_group="g" * 64), Code.ILLEGAL_MESSAGE_GROUP),
    ("the same in UTF-8", system(message_group="\u00e9" * 32), Code.ILLEGAL_MESSAGE_GROUP),
    ("control character in the group", system(message_group="a\t"), Code.ILLEGAL_MESSAGE_GROUP),
    ("40 days and a second ahead", system(delivery_timestamp=NOW_S + DELAY_S + 1), Code.ILLEGAL_DELIVERY_TIME),
    ("the end of time", system(delivery_timestamp=INT64), Code.ILLEGAL_DELIVERY_TIME),
    ("before 1970", system(delivery_timestamp=-1), Code.ILLEGAL_DELIVERY_TIME),
    (
        "recovery after more than an hour",
        system(message_type=v2.TRANSACTION, orphaned_transaction_recovery_duration=3601),
        Code.BAD_REQUEST,
    ),
    (
        "negative recovery",
        system(message_type=v2.TRANSACTION, orphaned_transaction_recovery_duration=-1),
        Code.BAD_REQUEST,
    ),
    ("negative priority", system(priority=-1), Code.BAD_REQUEST),
    ("born after the year 9999", system(born_timestamp=INT64), Code.BAD_REQUEST),
    ("born before 1970", system(born_timestamp=-1), Code.BAD_REQUEST),
    ("blank lite topic", system(lite_topic=" "), Code.ILLEGAL_LITE_TOPIC),
    ("lite topic of 65 characters", system(lite_topic="l" * 65), Code.ILLEGAL_LITE_TOPIC),
]


@pytest.mark.parametrize(("change", "code"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_limits(change: Change, code: Code) -> None:
    """A message beyond a limit is refused with that limit's code, a text, no entries, and nothing is stored."""
    rig = Rig()
    message = a_message()
    change(message)
    response = send(rig, message)
    assert response.status.code == code.value
    assert len(response.status.message) > 20
    assert not response.entries
    assert not rig.broker.calls


ACCEPTED = [
    ("body of the largest size", body(4_194_304)),
    ("128 user properties", props(128)),
    ("properties of 16384 bytes", prop("k", "v" * 16_383)),
    ("blank property value", prop("k", "")),
    ("message group of 63 bytes", system(message_group="g" * 63)),
    ("empty message group", system(message_group="")),
    ("empty tag", system(tag="")),
    ("empty key", system(keys=["", "a"])),
    ("40 days ahead", system(delivery_timestamp=NOW_S + DELAY_S)),
    ("in the past", system(delivery_timestamp=1)),
    ("recovery after an hour", system(message_type=v2.TRANSACTION, orphaned_transaction_recovery_duration=3600)),
    ("a type that nobody knows", system(message_type=77)),
    ("an encoding that nobody knows", system(body_encoding=77)),
]


@pytest.mark.parametrize("change", [a[1] for a in ACCEPTED], ids=[a[0] for a in ACCEPTED])
def test_up_to_the_limits(change: Change) -> None:
    """A message just at a limit reaches the broker."""
    rig = Rig()
    message = a_message()
    change(message)
    assert send(rig, message).status.code == Code.OK.value
    assert len(rig.broker.stored) == 1


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_reserved_names(key: str) -> None:
    """A user property under a system property's name is refused with 40007, and the text names it."""
    message = a_message()
    message.user_properties[key] = "v"
    status = send(Rig(), message).status
    assert status.code == Code.ILLEGAL_MESSAGE_PROPERTY_KEY.value
    assert key in status.message


BAD_TOPICS = [
    ("blank", "", " "),
    ("none", "", ""),
    ("illegal character", "", "a.b"),
    ("128 characters", "", "t" * 128),
    ("128 characters with the namespace", "n" * 60, "t" * 67),
    ("system topic", "", "TBW102"),
    ("system topic in a namespace", "ns", "SCHEDULE_TOPIC_XXXX"),
    ("system prefix", "", "rmq_sys_wheel_timer"),
    ("system prefix by the namespace", "rmq_sys_x", "y"),
    ("namespace with a percent sign", "a%b", "t"),
    ("namespace with a blank", "a b", "t"),
]


@pytest.mark.parametrize(("namespace", "name"), [b[1:] for b in BAD_TOPICS], ids=[b[0] for b in BAD_TOPICS])
def test_topic_names(namespace: str, name: str) -> None:
    """A topic that no client may use is refused with 40002."""
    message = a_message(name)
    message.topic.resource_namespace = namespace
    assert send(Rig(), message).status.code == Code.ILLEGAL_TOPIC.value


@pytest.mark.parametrize("name", ["t" * 127, "a-b_c%d|e", "%DLQ%billing", "%RETRY%billing"])
def test_legal_topic_names(name: str) -> None:
    """127 of the legal characters are a topic; so are retry and dead letter topics."""
    assert send(Rig(), a_message(name)).status.code == Code.OK.value


@pytest.mark.parametrize("namespace", ["", "ns"])
def test_the_trace_topic_takes_what_clients_tell(namespace: str) -> None:
    """It is the one system topic that they may use, and the same one for every namespace, as for 4.x clients."""
    rig, message = Rig(), a_message("RMQ_SYS_TRACE_TOPIC")
    message.topic.resource_namespace = namespace
    assert send(rig, message).status.code == Code.OK.value
    assert [one.topic for one in rig.broker.stored] == ["RMQ_SYS_TRACE_TOPIC"]


def test_nothing_to_send() -> None:
    """No message at all is 40016."""
    assert send(Rig()).status.code == Code.MESSAGE_CORRUPTED.value


def test_two_topics() -> None:
    """Messages of two topics in one request are 40016, and none is stored."""
    rig = Rig()
    assert send(rig, a_message("a"), a_message("b")).status.code == Code.MESSAGE_CORRUPTED.value
    assert not rig.broker.stored


def test_entries_in_request_order() -> None:
    """One entry per message, in order: its id, also as the transaction id, and its queue offset."""
    response = send(Rig(), *(a_message(message_id=f"id{n}") for n in range(5)))
    assert response.status.code == Code.OK.value
    assert response.status.message == "OK"
    assert [(e.message_id, e.transaction_id, e.offset) for e in response.entries] == [
        (f"id{n}", f"id{n}", n) for n in range(5)
    ]
    assert {(e.status.code, e.status.message, e.recall_handle) for e in response.entries} == {(20000, "OK", "")}


def test_recall_handle() -> None:
    """A delayed message's entry carries the broker's recall handle."""
    rig = Rig()
    rig.broker.answers["send"] = [SendResult(0, 7, "recall-me")]
    assert send(rig, a_message()).entries[0].recall_handle == "recall-me"


def test_stored_properties() -> None:
    """Every field of a message becomes the stored property of RocketMQ's name; absent ones leave none behind."""
    message = a_message(body=b"\x78zipped")
    message.user_properties["colour"] = "blau"
    properties = message.system_properties
    properties.tag, properties.trace_context, properties.born_host = "tag", "trace", "host-1"
    properties.keys.extend(["k1", "", "k2"])
    properties.born_timestamp.seconds, properties.born_timestamp.nanos = 1_700_000_000, 5_999_999
    properties.body_encoding = v2.GZIP
    properties.delivery_timestamp.seconds, properties.delivery_timestamp.nanos = NOW_S + 1, 500_000_000
    properties.message_group, properties.lite_topic, properties.priority = "group", "lite", 4
    properties.delivery_attempt = 2
    rig = Rig()
    assert send(rig, message).status.code == Code.OK.value
    (stored,) = rig.broker.stored
    assert decode_properties(stored.properties) == {
        "colour": "blau",
        "UNIQ_KEY": "01A",
        "TAGS": "tag",
        "KEYS": "k1 k2",
        "TIMER_DELIVER_MS": str((NOW_S + 1) * 1000 + 500),
        "__SHARDINGKEY": "group",
        "__LITE_TOPIC": "lite",
        "_SYS_MSG_PRIORITY_": "4",
        "RECONSUME_TIME": "2",
        "__BORNHOST": "host-1",
        "BORN_TIMESTAMP": "1700000000005",
        "TRACE_CONTEXT": "trace",
    }
    assert (stored.topic, stored.body, stored.sys_flag) == (TOPIC, b"\x78zipped", 1)
    assert (stored.born_ms, stored.born_host, stored.born_port) == (1_700_000_000_005, "10.1.2.3", 5555)


def test_bare_message() -> None:
    """A message with a body and an id alone is born now and has no other properties."""
    rig = Rig()
    send(rig, a_message())
    (stored,) = rig.broker.stored
    assert decode_properties(stored.properties) == {"UNIQ_KEY": "01A", "BORN_TIMESTAMP": str(NOW_MS)}
    assert (stored.born_ms, stored.sys_flag) == (NOW_MS, 0)


PEERS = [
    ("10.1.2.3:5555", "10.1.2.3", 5555),
    ("[2001:db8::1]:5555", "2001:db8::1", 5555),
    ("[::ffff:10.1.2.3]:5555", "10.1.2.3", 5555),
    ("unix:/run/rmq.sock", "127.0.0.1", 0),
    ("", "127.0.0.1", 0),
]


@pytest.mark.parametrize(("peer", "host", "port"), PEERS)
def test_born_at(peer: str, host: str, port: int) -> None:
    """A message is born at its client's address, IPv4 in its own spelling; loopback where there is no address."""
    rig = Rig()
    call = a_call()
    call.peer = peer
    rig.unary("SendMessage", sending(a_message()), call)
    assert [(m.born_host, m.born_port) for m in rig.broker.stored] == [(host, port)]


def test_stored_properties_of_a_transaction() -> None:
    """It says so, names its producer's group, which is its topic, and when it is checked first."""
    message = a_message()
    message.system_properties.message_type = v2.TRANSACTION
    message.system_properties.orphaned_transaction_recovery_duration.seconds = 30
    rig = Rig()
    assert send(rig, message).status.code == Code.OK.value
    (stored,) = rig.broker.stored
    assert stored.type is MessageType.TRANSACTION
    assert decode_properties(stored.properties) == {
        "UNIQ_KEY": "01A",
        "TRAN_MSG": "true",
        "PGROUP": TOPIC,
        "CHECK_IMMUNITY_TIME_IN_SECONDS": "30",
        "BORN_TIMESTAMP": str(NOW_MS),
    }


@pytest.mark.parametrize(
    ("field", "value"), [("message_group", "g"), ("lite_topic", "l"), ("priority", 0), ("delivery_timestamp", None)]
)
def test_a_transaction_is_of_no_other_type(field: str, value: str | int | None) -> None:
    """As official clients check before they send; the refusal names the field."""
    message = a_message()
    message.system_properties.message_type = v2.TRANSACTION
    if value is None:
        message.system_properties.delivery_timestamp.seconds = NOW_S + 1
    else:
        setattr(message.system_properties, field, value)
    rig = Rig()
    status = send(rig, message).status
    assert (status.code, field in status.message) == (Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE.value, True)
    assert not rig.broker.stored


def test_transaction_id() -> None:
    """That of the broker where it gives one."""
    rig = Rig()
    rig.broker.answers["send"] = [SendResult(0, 7, transaction_id="tx-7")]
    assert send(rig, a_message()).entries[0].transaction_id == "tx-7"


def test_transaction_without_a_recovery_time() -> None:
    """The recovery time is the server's where a transaction names none."""
    rig = Rig()
    message = a_message()
    message.system_properties.message_type = v2.TRANSACTION
    send(rig, message)
    properties = decode_properties(rig.broker.stored[0].properties)
    assert properties["TRAN_MSG"] == "true"
    assert "CHECK_IMMUNITY_TIME_IN_SECONDS" not in properties


def test_born_host_that_cannot_be_stored() -> None:
    """A born host with a control character is dropped: it informs only, and would break the stored properties."""
    rig = Rig()
    message = a_message()
    message.system_properties.born_host = "host\x01"
    assert send(rig, message).status.code == Code.OK.value
    assert "__BORNHOST" not in decode_properties(rig.broker.stored[0].properties)


def test_refusal_of_the_broker() -> None:
    """The broker's refusal is the overall status, with its text and without entries."""
    rig = Rig()
    rig.broker.answers["send"] = ClientError(Code.NOT_IMPLEMENTED, "FIFO is not served yet")
    response = send(rig, a_message())
    assert (response.status.code, response.status.message) == (50100, "FIFO is not served yet")
    assert not response.entries


def test_our_own_fault(caplog: pytest.LogCaptureFixture) -> None:
    """An exception inside the server is 50001 without details for the client, and is logged with its traceback."""
    rig = Rig()
    rig.broker.answers["send"] = KeyError("secret")
    response = send(rig, a_message())
    assert response.status.code == Code.INTERNAL_SERVER_ERROR.value
    assert "secret" not in response.status.message
    assert "secret" in caplog.text


def test_no_client_id() -> None:
    """Without x-mq-client-id the answer is 40017, in the response type of the call."""
    answer = Rig().unary("SendMessage", sending(a_message()), a_call(client_id=""))
    assert isinstance(answer, bytes)
    assert v2.SendMessageResponse.FromString(answer).status.code == Code.CLIENT_ID_REQUIRED.value


def test_client_id_without_end() -> None:
    """A client id longer than 255 characters is refused: it would be kept in every lease."""
    answer = Rig().unary("SendMessage", sending(a_message()), a_call(client_id="c" * 256))
    assert isinstance(answer, bytes)
    assert v2.SendMessageResponse.FromString(answer).status.code == Code.BAD_REQUEST.value


def test_garbage() -> None:
    """Bytes that are no protobuf end the call with INVALID_ARGUMENT."""
    with pytest.raises(RpcError, match="protobuf") as caught:
        Rig().raw("SendMessage", b"\xff\xff")
    assert caught.value.code is GrpcCode.INVALID_ARGUMENT


def test_answer_waits_for_the_broker(run: Callable[[Awaitable[None]], None]) -> None:
    """While the broker's answer is a Future (an fsync), so is ours; both outcomes arrive."""

    async def scenario() -> None:
        rig = Rig()
        for outcome, code in ((None, 20000), (ClientError(Code.INTERNAL_ERROR, "disk"), 50000)):
            stored: asyncio.Future[list[SendResult]] = asyncio.get_running_loop().create_future()
            rig.broker.answers["send"] = stored
            answer = rig.unary("SendMessage", sending(a_message()))
            assert isinstance(answer, asyncio.Future)
            assert not answer.done()
            if outcome is None:
                stored.set_result([SendResult(0, 9)])
            else:
                stored.set_exception(outcome)
            assert v2.SendMessageResponse.FromString(await answer).status.code == code

    run(scenario())


def test_cancelled_send(run: Callable[[Awaitable[None]], None]) -> None:
    """A client that gives up does not cancel the broker's Future: others may wait for the same fsync."""

    async def scenario() -> None:
        rig = Rig()
        stored: asyncio.Future[list[SendResult]] = asyncio.get_running_loop().create_future()
        rig.broker.answers["send"] = stored
        answer = rig.unary("SendMessage", sending(a_message()))
        assert isinstance(answer, asyncio.Future)
        answer.cancel()
        await asyncio.sleep(0)
        assert not stored.cancelled()
        stored.set_result([SendResult(0, 9)])
        await asyncio.sleep(0)
        assert answer.cancelled()

    run(scenario())


def test_limits_come_from_the_configuration() -> None:
    """A smaller `message_bytes_max` refuses what the default takes, and says so."""
    rig = Rig(limits=Limits(message_bytes_max=4))
    status = send(rig, a_message(body=b"12345")).status
    assert status.code == Code.MESSAGE_BODY_TOO_LARGE.value
    assert "max 4 bytes" in status.message


def recall(rig: Rig) -> v2.RecallMessageResponse:
    """A recall of a delayed message."""
    request = v2.RecallMessageRequest(topic=v2.Resource(name=TOPIC), recall_handle="recall-me")
    return rig.ask(v2.RecallMessageResponse.FromString, "RecallMessage", request)


def test_recall() -> None:
    """The answer names the message; the handle is the broker's affair."""
    rig = Rig()
    answer = recall(rig)
    assert (answer.status.code, answer.message_id) == (20000, "ID-1")
    assert rig.broker.of("recall") == [(TOPIC, "recall-me")]


def test_a_recall_that_comes_too_late() -> None:
    """The broker's refusal, in the call's own type."""
    rig = Rig()
    rig.broker.answers["recall"] = ClientError(Code.PRECONDITION_FAILED, "it has passed")
    answer = recall(rig)
    assert (answer.status.code, answer.status.message) == (42800, "it has passed")
