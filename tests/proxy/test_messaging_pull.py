"""PullMessage, UpdateOffset, GetOffset, QueryOffset over a fake broker: what is asked, and how the answers look."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from rmq.config import Config
from rmq.errors import ClientError, Code, OffsetError
from rmq.port import Pulled, PullRequest
from rmq_proto import v2
from rmq_proxy.rpc import Call
from tests.proxy.rig import GROUP, NOW_S, TOPIC, Rig, a_call, delivered

Run: TypeAlias = Callable[[Awaitable[None]], None]
Change: TypeAlias = Callable[[v2.PullMessageRequest], object]


def pulling(*, batch: int = 32, namespace: str = "", poll_s: int = 0) -> v2.PullMessageRequest:
    """From offset 7 of queue 1."""
    request = v2.PullMessageRequest(offset=7, batch_size=batch)
    request.group.name, request.group.resource_namespace = GROUP, namespace
    _name(request.message_queue, namespace)
    if poll_s:
        request.long_polling_timeout.seconds = poll_s
    return request


def updating() -> v2.UpdateOffsetRequest:
    """Offset 7 of queue 1."""
    request = v2.UpdateOffsetRequest(offset=7)
    request.group.name = GROUP
    _name(request.message_queue)
    return request


def getting() -> v2.GetOffsetRequest:
    """Of queue 1."""
    request = v2.GetOffsetRequest()
    request.group.name = GROUP
    _name(request.message_queue)
    return request


def querying(policy: int, ms: int | None = None) -> v2.QueryOffsetRequest:
    """Of queue 1."""
    request = v2.QueryOffsetRequest()
    setattr(request, "query_offset_policy", policy)  # noqa: B010  # a number that the enum's type may not admit
    _name(request.message_queue)
    if ms is not None:
        request.timestamp.seconds, request.timestamp.nanos = ms // 1000, ms % 1000 * 1_000_000
    return request


def _name(queue: v2.MessageQueue, namespace: str = "") -> None:
    queue.topic.name, queue.topic.resource_namespace, queue.id = TOPIC, namespace, 1


def pull(rig: Rig, request: v2.PullMessageRequest, call: Call | None = None) -> list[v2.PullMessageResponse]:
    """A pull that is answered at once."""
    answer = rig.listing("PullMessage", request, call)
    assert not isinstance(answer, asyncio.Future)
    return [v2.PullMessageResponse.FromString(data) for data in answer]


def shape(stream: list[v2.PullMessageResponse]) -> list[str | None]:
    """What each answer of the stream is."""
    return [response.WhichOneof("content") for response in stream]


def asked(rig: Rig) -> PullRequest:
    """What the broker was asked, once."""
    ((request,),) = rig.broker.of("pull")
    assert isinstance(request, PullRequest)
    return request


# -- pull ------------------------------------------------------------------------------------------------------------


def test_messages() -> None:
    """Status, messages, next offset; a message has all its fields but a receipt handle."""
    rig = Rig()
    rig.broker.answers["pull"] = Pulled([delivered(handle="", TAGS="t"), delivered(handle="")], 44)
    call = a_call()
    stream = pull(rig, pulling(), call)
    assert shape(stream) == ["status", "message", "message", "next_offset"]
    assert (stream[0].status.code, stream[-1].next_offset, call.code) == (20000, 44, None)
    system = stream[1].message.system_properties
    assert (system.message_id, system.tag, system.queue_id, system.queue_offset) == ("01A", "t", 3, 42)
    assert not system.HasField("receipt_handle")
    assert call.undelivered is None


def test_no_messages() -> None:
    """As an empty receive; the offset may have moved on all the same."""
    rig = Rig()
    rig.broker.answers["pull"] = Pulled([], 99)
    call = a_call()
    stream = pull(rig, pulling(), call)
    assert shape(stream) == ["status", "next_offset"]
    assert (stream[0].status.code, stream[1].next_offset) == (40401, 99)
    assert call.code is Code.MESSAGE_NOT_FOUND


def test_what_the_broker_is_asked() -> None:
    """All of the request, names as they are stored; a message says its namespace."""
    rig = Rig()
    rig.broker.answers["pull"] = Pulled([delivered(f"ns%{TOPIC}", handle="")], 44)
    request = pulling(namespace="ns", batch=5, poll_s=3)
    request.filter_expression.type, request.filter_expression.expression = v2.TAG, "a || b"
    topic = pull(rig, request)[1].message.topic
    wanted = asked(rig)
    assert (wanted.group, wanted.topic, wanted.queue_id, wanted.offset) == (f"ns%{GROUP}", f"ns%{TOPIC}", 1, 7)
    assert (wanted.batch, wanted.poll_ms, wanted.filter.expression) == (5, 3000, "a || b")
    assert (topic.resource_namespace, topic.name) == ("ns", TOPIC)


def test_a_pull_is_no_news_of_a_consumer() -> None:
    """The broker hears nothing of the client: it would give the group a place where it has committed none."""
    rig = Rig()
    pull(rig, pulling())
    assert rig.broker.of("online") == []


def test_a_pull_that_waits(run: Run) -> None:
    """The answer comes with the broker's, an error too; a client that leaves takes the broker's poll along."""

    async def scenario() -> None:
        rig = Rig()
        for error in (None, ClientError(Code.TOO_MANY_REQUESTS, "polling full"), ValueError("ours")):
            found: asyncio.Future[Pulled] = asyncio.get_running_loop().create_future()
            rig.broker.answers["pull"] = found
            answer = rig.listing("PullMessage", pulling())
            assert isinstance(answer, asyncio.Future)
            if error is None:
                found.set_result(Pulled([], 7))
            else:
                found.set_exception(error)
            stream = [v2.PullMessageResponse.FromString(data) for data in await answer]
            assert shape(stream) == (["status"] if error else ["status", "next_offset"])
        left: asyncio.Future[Pulled] = asyncio.get_running_loop().create_future()
        rig.broker.answers["pull"] = left
        answer = rig.listing("PullMessage", pulling())
        assert isinstance(answer, asyncio.Future)
        answer.cancel()
        await asyncio.sleep(0)
        assert left.cancelled()

    run(scenario())


def test_a_pull_that_is_answered_as_its_client_leaves(run: Run) -> None:
    """What it found is with nobody: there is nothing to give back."""

    async def scenario() -> None:
        rig = Rig()
        found: asyncio.Future[Pulled] = asyncio.get_running_loop().create_future()
        rig.broker.answers["pull"] = found
        answer = rig.listing("PullMessage", pulling())
        assert isinstance(answer, asyncio.Future)
        found.set_result(Pulled([delivered()], 43))
        answer.cancel()
        await asyncio.sleep(0)
        assert [call[0] for call in rig.broker.calls] == ["pull"]

    run(scenario())


def test_an_offset_that_is_not_there() -> None:
    """The status says so, and the nearest offset that the queue has follows."""
    rig = Rig()
    rig.broker.answers["pull"] = OffsetError("it goes from 10 to 20", 10)
    call = a_call()
    stream = pull(rig, pulling(), call)
    assert shape(stream) == ["status", "next_offset"]
    assert (stream[0].status.code, stream[0].status.message) == (40019, "it goes from 10 to 20")
    assert (stream[1].next_offset, call.code) == (10, Code.ILLEGAL_OFFSET)


POLLS = [(0, None, 0), (1, None, 1000), (20, None, 20_000), (21, None, 20_000), (10, 6, 5950), (10, 0, 0)]


@pytest.mark.parametrize(("asked_s", "left_s", "poll_ms"), POLLS)
def test_polling_time(asked_s: int, left_s: float | None, poll_ms: int) -> None:
    """What is asked, at most 20 s, and ended 50 ms before the client gives up; who asks for none does not wait."""
    rig = Rig()
    pull(rig, pulling(poll_s=asked_s), a_call(deadline_s=None if left_s is None else NOW_S + left_s))
    assert asked(rig).poll_ms == poll_ms


@pytest.mark.parametrize(("version", "code"), [("5.0.3", 40018), ("5.0.2", 40000)])
def test_code_of_a_bad_polling_time(version: str, code: int) -> None:
    """As that of a receive."""
    stream = pull(Rig(), pulling(poll_s=-1), a_call(x_mq_client_version=version))
    assert (shape(stream), stream[0].status.code) == (["status"], code)


def wrong_filter(kind: int, text: str) -> Change:
    """A filter that does not compile."""

    def change(request: v2.PullMessageRequest) -> None:
        request.filter_expression.type, request.filter_expression.expression = kind, text

    return change


REFUSED: dict[str, tuple[Change, int, str]] = {
    "tags": (wrong_filter(v2.TAG, "||"), 40010, "no tag"),
    "SQL92": (wrong_filter(v2.SQL, "a > "), 40010, "character 5 of 4"),
    "no batch": (lambda r: setattr(r, "batch_size", 0), 40000, "batch_size"),
    "no group": (lambda r: r.group.Clear(), 40003, "group"),
    "no topic": (lambda r: r.message_queue.Clear(), 40002, "topic"),
    "system topic": (lambda r: setattr(r.message_queue.topic, "name", "rmq_sys_wheel_timer"), 40002, "system topic"),
}


@pytest.mark.parametrize(("change", "code", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(change: Change, code: int, text: str) -> None:
    """By a status alone, and the broker is not asked; a filter's says where it is wrong."""
    rig = Rig()
    request = pulling()
    change(request)
    stream = pull(rig, request)
    assert (shape(stream), stream[0].status.code) == (["status"], code)
    assert text in stream[0].status.message
    assert rig.broker.calls == []


def test_pulls_are_limited_as_receives(run: Run) -> None:
    """They share one allowance; offsets have none."""
    rig = Rig(config=Config(client_receives_per_s_max=2))
    codes = [pull(rig, pulling())[0].status.code for _ in range(3)]
    assert codes == [40401, 40401, 42900]
    assert rig.ask(v2.GetOffsetResponse.FromString, "GetOffset", getting()).status.code == 20000


# -- offsets ---------------------------------------------------------------------------------------------------------


def test_update(run: Run) -> None:
    """Answered when the broker says that it is safe, errors too."""

    async def scenario() -> None:
        rig = Rig()
        for error, code in ((None, 20000), (ClientError(Code.TOPIC_NOT_FOUND, "none"), 40402)):
            safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            rig.broker.answers["update_offset"] = safe
            answer = rig.unary("UpdateOffset", updating())
            assert isinstance(answer, asyncio.Future)
            if error is None:
                safe.set_result(None)
            else:
                safe.set_exception(error)
            assert v2.UpdateOffsetResponse.FromString(await answer).status.code == code
        assert rig.broker.of("update_offset")[0] == (GROUP, TOPIC, 1, 7)

    run(scenario())


def test_get() -> None:
    """The group's offset, or the broker's no."""
    rig = Rig()
    answer = rig.ask(v2.GetOffsetResponse.FromString, "GetOffset", getting())
    assert (answer.status.code, answer.offset) == (20000, 7)
    assert rig.broker.of("committed_offset") == [(GROUP, TOPIC, 1)]
    rig.broker.answers["committed_offset"] = ClientError(Code.OFFSET_NOT_FOUND, "none yet")
    assert rig.ask(v2.GetOffsetResponse.FromString, "GetOffset", getting()).status.code == 40404


QUERIES = [
    (querying(v2.BEGINNING), (False, None)),
    (querying(v2.END), (True, None)),
    (querying(v2.BEGINNING, 5), (False, None)),
    (querying(v2.TIMESTAMP, 0), (False, 0)),
    (querying(v2.TIMESTAMP, 1_700_000_000_123), (False, 1_700_000_000_123)),
]


@pytest.mark.parametrize(("request_", "expected"), QUERIES)
def test_query(request_: v2.QueryOffsetRequest, expected: tuple[bool, int | None]) -> None:
    """By its policy; a time counts only where the policy asks for one."""
    rig = Rig()
    answer = rig.ask(v2.QueryOffsetResponse.FromString, "QueryOffset", request_)
    assert (answer.status.code, answer.offset) == (20000, 3)
    assert rig.broker.of("query_offset") == [(TOPIC, 1, *expected)]


@pytest.mark.parametrize("request_", [querying(v2.TIMESTAMP), querying(77)])
def test_query_of_nothing(request_: v2.QueryOffsetRequest) -> None:
    """No time where one is needed, or a policy from the future."""
    rig = Rig()
    assert rig.ask(v2.QueryOffsetResponse.FromString, "QueryOffset", request_).status.code == 40000
    assert rig.broker.calls == []
