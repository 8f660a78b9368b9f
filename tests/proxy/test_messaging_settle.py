"""AckMessage, ChangeInvisibleDuration and ForwardMessageToDeadLetterQueue."""

import pytest

from rmq.errors import ClientError, Code
from rmq_proto import v2
from tests.proxy.rig import GROUP, TOPIC, Rig, acking

DEAD = ClientError(Code.INVALID_RECEIPT_HANDLE, "receipt handle is expired")
BUSY = ClientError(Code.TOO_MANY_REQUESTS, "later")


def ack(rig: Rig, request: v2.AckMessageRequest) -> v2.AckMessageResponse:
    """Acks, and is answered at once."""
    return rig.ask(v2.AckMessageResponse.FromString, "AckMessage", request)


OVERALL = [
    ("all fine", [None, None], 20000, [20000, 20000]),
    ("all dead", [DEAD, DEAD], 40013, [40013, 40013]),
    ("mixed", [None, DEAD], 30000, [20000, 40013]),
    ("mixed failures", [DEAD, BUSY], 30000, [40013, 42900]),
]


@pytest.mark.parametrize(("outcomes", "overall", "entries"), [o[1:] for o in OVERALL], ids=[o[0] for o in OVERALL])
def test_ack(outcomes: list[ClientError | None], overall: int, entries: list[int]) -> None:
    """One entry per handle, in order, echoing id and handle; the overall code is theirs, or 30000 where they differ."""
    rig = Rig()
    rig.broker.outcomes = outcomes
    response = ack(rig, acking("h0", "h1"))
    assert response.status.code == overall
    assert [(e.message_id, e.receipt_handle, e.status.code) for e in response.entries] == [
        ("id-0", "h0", entries[0]),
        ("id-1", "h1", entries[1]),
    ]
    assert rig.broker.of("ack") == [(GROUP, TOPIC, ["h0", "h1"])]


def test_ack_of_nothing() -> None:
    """No entry at all is the caller's mistake."""
    rig = Rig()
    response = ack(rig, acking())
    assert response.status.code == Code.BAD_REQUEST.value
    assert not rig.broker.calls


def test_ack_of_a_bad_group() -> None:
    """A bad name refuses the request as a whole: a status, no entries."""
    request = acking("h0")
    request.group.name = "CID_RMQ_SYS_x"
    response = ack(Rig(), request)
    assert response.status.code == Code.ILLEGAL_CONSUMER_GROUP.value
    assert not response.entries


GROUPS = [("blank", "", ""), ("121 characters", "", "g" * 121), ("illegal", "", "a.b"), ("namespace", "a%", "g")]


@pytest.mark.parametrize(("namespace", "name"), [g[1:] for g in GROUPS], ids=[g[0] for g in GROUPS])
def test_group_names(namespace: str, name: str) -> None:
    """A group name that is none is refused with 40003."""
    request = acking("h0")
    request.group.name, request.group.resource_namespace = name, namespace
    assert ack(Rig(), request).status.code == Code.ILLEGAL_CONSUMER_GROUP.value


def test_longest_group_name() -> None:
    """120 characters are a group name."""
    request = acking("h0")
    request.group.name = "g" * 120
    assert ack(Rig(), request).status.code == Code.OK.value


def changing(seconds: int, *, suspend: bool = False) -> v2.ChangeInvisibleDurationRequest:
    """A change of one handle."""
    request = v2.ChangeInvisibleDurationRequest()
    request.group.name, request.topic.name, request.receipt_handle = GROUP, TOPIC, "h0"
    request.invisible_duration.seconds = seconds
    request.suspend = suspend
    return request


def change(rig: Rig, request: v2.ChangeInvisibleDurationRequest) -> v2.ChangeInvisibleDurationResponse:
    """Changes, and is answered at once."""
    return rig.ask(v2.ChangeInvisibleDurationResponse.FromString, "ChangeInvisibleDuration", request)


@pytest.mark.parametrize(("seconds", "suspend"), [(0, False), (30, True), (12 * 3600, False)])
def test_change_invisible(seconds: int, suspend: bool) -> None:
    """From 0 to 12 h, with `suspend` passed on; the answer carries the new handle."""
    rig = Rig()
    response = change(rig, changing(seconds, suspend=suspend))
    assert (response.status.code, response.receipt_handle) == (20000, "h0+")
    assert rig.broker.of("change_invisible") == [(GROUP, TOPIC, "h0", seconds * 1000, suspend)]


@pytest.mark.parametrize("seconds", [-1, 12 * 3600 + 1, 2**63 - 1, -(2**63)])
def test_change_beyond_the_limits(seconds: int) -> None:
    """Outside 0 to 12 h it is 40011, without a handle."""
    rig = Rig()
    response = change(rig, changing(seconds))
    assert (response.status.code, response.receipt_handle) == (40011, "")
    assert not rig.broker.calls


def test_change_with_a_dead_handle() -> None:
    """The broker's refusal comes as a status."""
    rig = Rig()
    rig.broker.answers["change_invisible"] = DEAD
    assert change(rig, changing(5)).status.code == Code.INVALID_RECEIPT_HANDLE.value


@pytest.mark.parametrize(("error", "code"), [(None, 20000), (DEAD, 40013)])
def test_dead_letter(error: ClientError | None, code: int) -> None:
    """The handle goes to the broker, the request's own attempt counts do not matter, and its outcome comes back."""
    rig = Rig()
    if error is not None:
        rig.broker.answers["dead_letter"] = error
    request = v2.ForwardMessageToDeadLetterQueueRequest()
    request.group.name, request.topic.name, request.receipt_handle = GROUP, TOPIC, "h0"
    request.delivery_attempt, request.max_delivery_attempts = -5, 0
    response = rig.ask(
        v2.ForwardMessageToDeadLetterQueueResponse.FromString, "ForwardMessageToDeadLetterQueue", request
    )
    assert response.status.code == code
    assert rig.broker.of("dead_letter") == [(GROUP, TOPIC, "h0")]
