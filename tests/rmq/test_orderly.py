"""A group that is orderly: order per queue on a topic of type NORMAL, as RocketMQ 4.x has it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from rmq import message as m
from rmq.config import GroupFlags, GroupSetting, TopicSetting
from rmq.message import Delivered, MessageType
from tests.rmq.admin_rig import admin
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, INVISIBLE_MS, SMALL, TOPIC, Rig, bodies, outgoing, request

NORMAL: Mapping[str, object] = {"topics": {TOPIC: TopicSetting(MessageType.NORMAL, 1)}}


@pytest.fixture
def orderly(make_rig: MakeRig, tmp_path: Path) -> Rig:
    """A group that is orderly, and a NORMAL topic with one queue."""
    rig = make_rig(flush="fast", data=f"{tmp_path}/data", flush_interval_ms=1, **SMALL, **NORMAL)
    rig.wait(admin(rig).put_group(GROUP, 0, None, GroupFlags(orderly=True)))
    return rig


def take(rig: Rig, *, group: str = GROUP, fifo: bool = False) -> Sequence[Delivered]:
    """What a receive brings."""
    return rig.receive(request(group=group, batch=9, fifo=fifo))


def test_one_message_of_a_queue_after_the_other(orderly: Rig) -> None:
    """The next comes when the one before is settled; it comes again before what is behind it."""
    orderly.send("1", "2", "3")
    (first,) = take(orderly)
    assert (first.body, take(orderly)) == (b"1", [])
    orderly.advance(INVISIBLE_MS)
    (again,) = take(orderly)
    assert (again.body, again.attempt) == (b"1", 2)
    orderly.ack(again.handle)
    assert bodies(take(orderly)) == ["2"]


def test_queues_flow_on_beside_each_other(make_rig: MakeRig) -> None:
    """Each in its order."""
    rig = make_rig(topics={TOPIC: TopicSetting(MessageType.NORMAL, 2)})
    rig.wait(admin(rig).put_group(GROUP, 0, None, GroupFlags(orderly=True)))
    for body in "1234":
        rig.send(body)
    assert sorted(bodies(take(rig))) == ["1", "2"]
    assert take(rig) == []


def test_a_client_that_was_told_so_gets_several(orderly: Rig) -> None:
    """And it is told so: fifo in its settings."""
    assert orderly.broker.group(GROUP, [TOPIC]).fifo
    orderly.send("1", "2", "3")
    assert bodies(take(orderly, fifo=True)) == ["1", "2", "3"]


def test_a_message_group_has_no_say_where_the_topic_has_none(orderly: Rig) -> None:
    """On a NORMAL topic the queue is what counts; on others each message group goes on by itself."""
    orderly.wait(admin(orderly).put_topic("fifo", MessageType.FIFO, 1))
    store = orderly.broker._store
    for topic, name, key in ((TOPIC, "1", "a"), (TOPIC, "2", "b"), ("fifo", "3", "a"), ("fifo", "4", "b")):
        orderly.send(outgoing(name, topic="fifo", **{m.SHARDING_KEY: key}) if topic == "fifo" else outgoing(name))
    assert len(store.state.topics[TOPIC].queues) == 1
    assert bodies(take(orderly)) == ["1"]
    assert sorted(bodies(orderly.receive(request("fifo", batch=9)))) == ["3", "4"]


def test_other_groups_are_not_in_order(orderly: Rig) -> None:
    """And this one is not any more when it is told."""
    orderly.send("1", "2")
    assert bodies(take(orderly, group="other")) == ["1", "2"]
    assert bodies(take(orderly)) == ["1"]
    info = orderly.wait(admin(orderly).put_group(GROUP, 3, None))
    assert (info.flags.orderly, info.attempts_max) == (True, 3)
    info = orderly.wait(admin(orderly).put_group(GROUP, 0, None, GroupFlags(orderly=False)))
    assert (info.flags.orderly, orderly.broker.group(GROUP).fifo) == (False, False)
    orderly.send("3", "4")
    assert bodies(take(orderly)) == ["3", "4"]


@pytest.mark.parametrize("end", ["restart", "crash"])
def test_order_outlives_the_server(orderly: Rig, end: str) -> None:
    """And so does the group's setting, whatever the configuration lists."""
    orderly.send("1", "2", "3")
    (first,) = take(orderly)
    assert take(orderly) == []
    orderly.settle()
    getattr(orderly, end)()
    assert take(orderly) == []
    orderly.ack(first.handle)
    assert bodies(take(orderly)) == ["2"]
    orderly.advance(INVISIBLE_MS)
    assert bodies(take(orderly, fifo=True)) == ["2", "3"]


def test_the_configuration_makes_a_group_orderly(disk_rig: Rig) -> None:
    """And where it says nothing of that, the group stays as it is."""
    disk_rig.restart(groups={"ledger": GroupSetting(17, flags=GroupFlags(orderly=True)), "usual": GroupSetting(17)})
    assert [disk_rig.broker.group(name).fifo for name in ("ledger", "usual")] == [True, False]
    disk_rig.restart(groups={"ledger": GroupSetting(17)})
    assert disk_rig.broker.group("ledger").fifo
    disk_rig.restart(groups={"ledger": GroupSetting(17, flags=GroupFlags(orderly=False))})
    assert not disk_rig.broker.group("ledger").fifo
