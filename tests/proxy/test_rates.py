"""Rate limits: who is above one is answered 42900 and nothing happens; what must go on is never limited."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq_proto import v2
from rmq_proxy import rates
from rmq_proxy.rates import KEYS_MAX, SETTINGS, Rates
from tests.proxy.rig import TOPIC, Rig, a_call, a_message, acking, receiving, sending
from tests.proxy.transports import Maker, serving
from tests.scraping import samples, told

Run = Callable[[Coroutine[Any, Any, None]], None]


def config(**limits: int) -> Config:
    """With these limits and no others."""
    return msgspec.structs.replace(Config(), **limits)


class Clock:
    """Seconds that a test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def limited(**limits: int) -> tuple[Rates, Clock]:
    """The limits, and their clock."""
    clock = Clock()
    return Rates(config(**limits), clock), clock


def passes(act: Callable[..., None], *arguments: object) -> bool:
    """Whether it was let through."""
    try:
        act(*arguments)
    except ClientError as error:
        if error.code is not Code.TOO_MANY_REQUESTS:
            raise
        return False
    return True


def refused(one: Rates, setting: str) -> float:
    """How many calls were refused for a setting."""
    return samples(told(one.source))[f'rmq_rate_limited_total{{setting="{setting}"}}']


def test_without_a_limit_everything_passes() -> None:
    """The default, for all four."""
    one, _ = limited()
    for _ in range(1000):
        one.send("client", "topic", 32)
        one.receive("client", "topic")
    assert [refused(one, setting) for setting in SETTINGS] == [0, 0, 0, 0]


@given(st.lists(st.tuples(st.integers(1, 32), st.floats(0, 3)), max_size=60), st.integers(1, 100))
def test_no_more_passes_than_the_rate_allows(calls: list[tuple[int, float]], per_s_max: int) -> None:
    """Over any time: one second's allowance, what the time brought, and the rest of one call that began in it."""
    one, clock = limited(client_sends_per_s_max=per_s_max)
    begin_s, passed = clock.now_s, 0
    for messages, pause_s in calls:
        clock.now_s += pause_s
        before = passed
        if passes(one.send, "client", "topic", messages):
            passed += messages
        assert before <= per_s_max * (clock.now_s - begin_s + 1) + 32
        assert passed <= per_s_max * (clock.now_s - begin_s + 1) + 32


@pytest.mark.parametrize("per_s_max", [1, 3, 10, 49, 1000])
def test_the_allowance_of_a_second_may_be_used_at_once(per_s_max: int) -> None:
    """Exactly that many, then one more for each step of time."""
    one, clock = limited(client_receives_per_s_max=per_s_max)

    def burst() -> int:
        return sum(passes(one.receive, "client", "topic") for _ in range(2 * per_s_max))

    assert burst() == per_s_max
    clock.now_s += 1 / per_s_max
    assert burst() == 1
    clock.now_s += 100
    assert burst() == per_s_max


def test_a_batch_counts_all_its_messages() -> None:
    """It passes whole while something is left; what it took too much is waited for."""
    one, clock = limited(client_sends_per_s_max=10)
    assert passes(one.send, "client", "topic", 32)
    clock.now_s += 2.1
    assert not passes(one.send, "client", "topic", 1)
    clock.now_s += 0.2
    assert passes(one.send, "client", "topic", 1)


def test_clients_and_topics_are_limited_each_for_itself() -> None:
    """One client's excess is not another's, and the same with topics; sends are not receives."""
    one, _ = limited(client_sends_per_s_max=2, topic_sends_per_s_max=3)
    assert [passes(one.send, "a", "x", 1) for _ in range(3)] == [True, True, False]
    assert [passes(one.send, "b", "x", 1) for _ in range(2)] == [True, False]
    assert passes(one.send, "b", "y", 1)
    assert passes(one.receive, "a", "x")
    assert [refused(one, setting) for setting in SETTINGS] == [1, 1, 0, 0]


def test_a_refused_call_costs_its_client_nothing() -> None:
    """What the topic refuses is not taken from the client's allowance, nor the reverse."""
    one, clock = limited(client_sends_per_s_max=2, topic_sends_per_s_max=1)
    assert [passes(one.send, "a", "x", 1) for _ in range(5)] == [True, False, False, False, False]
    assert passes(one.send, "a", "y", 1)
    clock.now_s += 1
    assert passes(one.send, "b", "x", 1)


def test_the_refusal_says_which_setting_and_whose_it_is() -> None:
    """The operator finds it in config.yaml."""
    one, _ = limited(topic_receives_per_s_max=1)
    one.receive("client", "orders")
    with pytest.raises(ClientError, match="topic_receives_per_s_max = 1 ") as caught:
        one.receive("other", "orders")
    assert "orders" in caught.value.text


def test_idle_keys_are_forgotten() -> None:
    """New clients without end cost no memory without end, and each has its full allowance."""
    one, clock = limited(client_sends_per_s_max=1000)
    for number in range(3 * KEYS_MAX):
        clock.now_s += 0.001
        one.send(f"client-{number}", "topic", 1)
    assert len(one._all[0]._busy_until_s) <= KEYS_MAX + 1


def test_busy_keys_beyond_the_table_share_one_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that inventing client ids brings nothing; who is known keeps its own."""
    monkeypatch.setattr(rates, "KEYS_MAX", 3)
    one, clock = limited(client_sends_per_s_max=2)
    for name in ("a", "b", "c"):
        one.send(name, "topic", 1)
    assert [passes(one.send, name, "topic", 1) for name in ("d", "e", "f")] == [True, True, False]
    assert passes(one.send, "a", "topic", 1)
    clock.now_s += 2
    assert [passes(one.send, name, "topic", 1) for name in ("f", "g", "h", "i")] == [True, True, True, True]


# ---- In the service ----


def sent(rig: Rig, count: int = 1, client_id: str = "one") -> int:
    """The code that a send of so many messages is answered."""
    request = sending(*[a_message() for _ in range(count)])
    response = rig.ask(v2.SendMessageResponse.FromString, "SendMessage", request, a_call(client_id=client_id))
    assert bool(response.entries) == (response.status.code == Code.OK.value)
    return response.status.code


def test_a_send_above_its_rate_is_answered_42900() -> None:
    """In the response's own status, without entries; nothing reaches the broker."""
    rig = Rig(config=config(client_sends_per_s_max=4))
    assert [sent(rig, 3), sent(rig, 3), sent(rig), sent(rig, client_id="two")] == [20000, 20000, 42900, 20000]
    assert len(rig.broker.stored) == 7
    rig.clock.now_s += 10
    assert sent(rig) == 20000


def test_a_receive_above_its_rate_is_answered_42900() -> None:
    """A status and the time, as every failed receive; the broker is not asked."""
    rig = Rig(config=config(topic_receives_per_s_max=1))
    codes = []
    for client_id in ("one", "two"):
        call = a_call(client_id=client_id)
        first, last = rig.receive(receiving(), call)
        codes.append((first.status.code, call.code))
        assert last.HasField("delivery_timestamp")
    assert codes == [(40401, Code.MESSAGE_NOT_FOUND), (42900, Code.TOO_MANY_REQUESTS)]
    assert len(rig.broker.of("receive")) == 1


def test_acks_and_heartbeats_are_never_limited() -> None:
    """To refuse one would only make more deliveries."""
    rig = Rig(config=config(**dict.fromkeys(SETTINGS, 1)))
    for _ in range(5):
        acked = rig.ask(v2.AckMessageResponse.FromString, "AckMessage", acking("handle"))
        beat = rig.ask(v2.HeartbeatResponse.FromString, "Heartbeat", v2.HeartbeatRequest(client_type=v2.PRODUCER))
        assert acked.status.code == beat.status.code == Code.OK.value


def test_both_transports(run: Run, make: Maker) -> None:
    """The call itself is OK for gRPC; the client id of the metadata is the one that counts."""
    rig = Rig(config=config(client_sends_per_s_max=1))

    async def scenario() -> None:
        async with serving(make, rig.row("SendMessage")) as server:
            codes = []
            for client_id in ("one", "one", "two"):
                metadata = (("x-mq-client-id", client_id),)
                request = sending(a_message(TOPIC)).SerializeToString()
                answer = await server.unary(rig.row("SendMessage").path, request, metadata=metadata)
                codes.append(v2.SendMessageResponse.FromString(answer).status.code)
            assert codes == [20000, 42900, 20000]

    run(scenario())
