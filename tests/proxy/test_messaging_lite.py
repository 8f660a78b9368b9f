"""SyncLiteSubscription, receives of lite consumers, and the notice that a subscription has ended."""

from collections.abc import Callable

import pytest

from rmq.errors import ClientError, Code
from rmq.port import LiteStart, LiteSync, ReceiveRequest
from rmq_proto import v2
from rmq_proxy.validate import Limits
from tests.proxy.rig import (
    CLIENT,
    GROUP,
    TOPIC,
    Rig,
    a_call,
    a_message,
    receiving,
    sending,
    settings_command,
    subscribing,
)

LITE = [v2.LITE_PUSH_CONSUMER, v2.LITE_SIMPLE_CONSUMER]
OTHERS = [v2.PUSH_CONSUMER, v2.SIMPLE_CONSUMER]


def syncing(*names: str, action: int = v2.PARTIAL_ADD) -> v2.SyncLiteSubscriptionRequest:
    """Of one client."""
    request = v2.SyncLiteSubscriptionRequest(action=action, lite_topic_set=names)
    request.topic.name, request.group.name = TOPIC, GROUP
    return request


def asked(rig: Rig, request: v2.SyncLiteSubscriptionRequest) -> v2.Status:
    """What it is answered."""
    return rig.ask(v2.SyncLiteSubscriptionResponse.FromString, "SyncLiteSubscription", request).status


def told(request: v2.SyncLiteSubscriptionRequest) -> LiteSync:
    """What the broker hears of it."""
    rig = Rig()
    assert asked(rig, request).code == v2.OK
    ((sync,),) = rig.broker.of("sync_lite")
    assert isinstance(sync, LiteSync)
    return sync


ACTIONS = [
    (v2.PARTIAL_ADD, "add", ["a", "b"]),
    (v2.PARTIAL_REMOVE, "remove", ["a", "b"]),
    (v2.COMPLETE_ADD, "replace", ["a", "b"]),
    (v2.COMPLETE_REMOVE, "replace", []),
]


@pytest.mark.parametrize(("action", "word", "names"), ACTIONS)
def test_actions(action: int, word: str, names: list[str]) -> None:
    """COMPLETE_REMOVE is an empty set, whatever it names."""
    assert told(syncing("a", "b", action=action)) == LiteSync(GROUP, TOPIC, CLIENT, word, names)  # type: ignore[arg-type]


OPTIONS = [
    (v2.OffsetOption(policy=v2.OffsetOption.LAST), LiteStart("last")),
    (v2.OffsetOption(policy=v2.OffsetOption.MIN), LiteStart("min")),
    (v2.OffsetOption(policy=v2.OffsetOption.MAX), LiteStart("max")),
    (v2.OffsetOption(offset=5), LiteStart("offset", 5)),
    (v2.OffsetOption(tail_n=5), LiteStart("tail", 5)),
    (v2.OffsetOption(timestamp=5), LiteStart("time", 5)),
    (v2.OffsetOption(), LiteStart("last")),
]


@pytest.mark.parametrize(("option", "start"), OPTIONS)
def test_offset_options(option: v2.OffsetOption, start: LiteStart) -> None:
    """Each kind; an empty one says nothing."""
    request = syncing("a")
    request.offset_option.CopyFrom(option)
    assert told(request).start == start


def test_versions() -> None:
    """Told where the client has one, 0 too."""
    request = syncing("a")
    assert told(request).version is None
    request.version = 0
    assert told(request).version == 0


WRONG: list[tuple[Callable[[v2.SyncLiteSubscriptionRequest], object], Code]] = [
    (lambda request: request.topic.Clear(), Code.ILLEGAL_TOPIC),
    (lambda request: request.group.Clear(), Code.ILLEGAL_CONSUMER_GROUP),
    (lambda request: request.lite_topic_set.append(" "), Code.ILLEGAL_LITE_TOPIC),
    (lambda request: request.lite_topic_set.append("l" * 65), Code.ILLEGAL_LITE_TOPIC),
    (lambda request: request.lite_topic_set.append("l\x01"), Code.ILLEGAL_LITE_TOPIC),
    (lambda request: setattr(request, "action", 77), Code.BAD_REQUEST),
    (lambda request: setattr(request.offset_option, "offset", -1), Code.ILLEGAL_OFFSET),
    (lambda request: setattr(request.offset_option, "tail_n", -1), Code.ILLEGAL_OFFSET),
    (lambda request: setattr(request.offset_option, "policy", 77), Code.ILLEGAL_OFFSET),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_requests(number: int) -> None:
    """The broker hears nothing of them."""
    rig, request = Rig(), syncing("a")
    spoil, code = WRONG[number]
    spoil(request)
    assert asked(rig, request).code == code.value
    assert rig.broker.of("sync_lite") == []


def test_what_the_broker_refuses() -> None:
    """Is told in the status."""
    rig = Rig()
    rig.broker.answers["sync_lite"] = ClientError(Code.LITE_SUBSCRIPTION_QUOTA_EXCEEDED, "too many")
    status = asked(rig, syncing("a"))
    assert (status.code, status.message) == (v2.LITE_SUBSCRIPTION_QUOTA_EXCEEDED, "too many")


def test_a_client_that_syncs_is_there() -> None:
    """Until it is silent; then the broker hears that it is gone."""
    rig = Rig()
    asked(rig, syncing("a"))
    assert rig.broker.of("online") == [(GROUP, CLIENT, {})]
    rig.sessions.tick(rig.clock.now_s + 1000)
    assert rig.broker.of("offline") == [(GROUP, CLIENT)]


@pytest.mark.parametrize("client_type", [*LITE, *OTHERS])
def test_a_lite_consumer_receives_of_its_lite_topics(client_type: int) -> None:
    """By what it said of itself in its settings."""
    rig = Rig()
    rig.tell(subscribing(TOPIC, client_type=client_type))
    rig.receive(receiving())
    ((wanted,),) = rig.broker.of("receive")
    assert isinstance(wanted, ReceiveRequest)
    assert wanted.lite is (client_type in LITE)


def test_settings_tell_the_limits() -> None:
    """Of subscriptions as it is configured, and of a name."""
    rig = Rig(limits=Limits(lite_subscriptions_max=7))
    subscription = rig.tell(subscribing(TOPIC, client_type=v2.LITE_PUSH_CONSUMER)).settings.subscription
    assert (subscription.lite_subscription_quota, subscription.max_lite_topic_size) == (7, 64)


def test_a_message_of_a_lite_topic() -> None:
    """The broker is told what it needs to find its queue."""
    rig, message = Rig(), a_message()
    message.system_properties.lite_topic = "a"
    rig.unary("SendMessage", sending(message))
    (stored,) = rig.broker.stored
    assert (stored.lite_topic, stored.type.name) == ("a", "LITE")


def test_the_end_of_a_subscription_is_told() -> None:
    """On the newest stream of the client; one without a stream learns it from what it does not get."""
    rig = Rig()
    inlet, outlet = rig.stream()
    inlet.message(settings_command(subscribing(TOPIC, client_type=v2.LITE_PUSH_CONSUMER)))
    other = rig.stream(a_call(client_id="other"))[1]
    rig.telemetry.unsubscribe_lite(CLIENT, "a")
    rig.telemetry.unsubscribe_lite("nobody", "a")
    assert outlet.commands()[1].notify_unsubscribe_lite_command.lite_topic == "a"
    assert (len(outlet.commands()), other.commands()) == (2, [])
