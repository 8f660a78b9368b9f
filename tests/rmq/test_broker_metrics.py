"""What the broker tells a scrape: counters of what moved, gauges of what is there."""

from pathlib import Path

import pytest

from rmq.adminport import Start
from rmq.brokermetrics import READ_AND_WRITE
from rmq.config import TopicSetting
from rmq.errors import ClientError
from rmq.message import MessageType
from rmq.metrics import Exposition
from rmq_store.flush import Mode
from tests.rmq.conftest import MakeRig
from tests.rmq.fifo import FIFO, grouped
from tests.rmq.rig import GROUP, SMALL, TOPIC, Rig, bodies, outgoing, request
from tests.rmq.test_transaction_checks import Producers
from tests.scraping import samples, told

ON_TOPIC = f'topic="{TOPIC}",consumer_group="{GROUP}"'


def numbers(rig: Rig) -> dict[str, float]:
    """All samples of the broker."""
    return samples(told(*rig.broker.metrics.sources))


def of_group(rig: Rig, name: str, labels: str = ON_TOPIC) -> float:
    """One gauge of the group."""
    return numbers(rig)[f'rocketmq_consumer_{name}{{{labels},is_system="false"}}']


def out(rig: Rig, name: str, *, retry: str = "false") -> float:
    """One counter of what was delivered to the group."""
    return numbers(rig)[f'rocketmq_{name}_out_total{{{ON_TOPIC},is_retry="{retry}",is_system="false"}}']


def test_messages_that_came_in_are_counted_by_topic_and_type(rig: Rig) -> None:
    """Numbers, bytes of their records, and sizes by range; a batch counts by its messages' average size."""
    rig.send("small")
    rig.send(*[outgoing("x" * 5000) for _ in range(3)])
    told_now = numbers(rig)
    labels = f'{{topic="{TOPIC}",message_type="normal",is_system="false"'
    assert told_now[f"rocketmq_messages_in_total{labels}}}"] == 4
    assert 15_000 < told_now[f"rocketmq_throughput_in_total{labels}}}"] < 17_000
    ranges = [told_now[f'rocketmq_message_size_bucket{labels},le="{bound}"}}'] for bound in (1024, 4096, 524288)]
    assert ranges == [1, 1, 4]
    assert told_now[f"rocketmq_message_size_count{labels}}}"] == 4


def test_the_bytes_that_came_in_are_those_of_the_log(rig: Rig) -> None:
    """The log grows by what is counted, and by what the broker itself writes."""
    rig.send("to make the topic")
    before, log = numbers(rig), rig.broker._store.log
    end = log.end
    rig.send("a" * 100, "b" * 200)
    labels = f'{{topic="{TOPIC}",message_type="normal",is_system="false"}}'
    name = f"rocketmq_throughput_in_total{labels}"
    assert numbers(rig)[name] - before[name] == log.end - end


def test_a_topic_for_all_types_counts_by_the_messages_own(make_rig: MakeRig) -> None:
    """Its own type is none that a message has."""
    rig = make_rig(topics={TOPIC: TopicSetting(MessageType.MIXED, 1)})
    rig.send("a")
    rig.send("b")
    labels = f'{{topic="{TOPIC}",message_type="normal",is_system="false"}}'
    assert numbers(rig)[f"rocketmq_messages_in_total{labels}"] == 2


def test_messages_that_went_out_are_counted_by_topic_and_group(rig: Rig) -> None:
    """What had been delivered before is told apart; its bytes are those that came in."""
    rig.send("a", "b")
    first = rig.receive(request(batch=2))
    assert (out(rig, "messages"), out(rig, "messages", retry="true")) == (2, 0)
    assert out(rig, "throughput") == numbers(rig)[
        f'rocketmq_throughput_in_total{{topic="{TOPIC}",message_type="normal",is_system="false"}}'
    ]  # fmt: skip
    rig.change(first[0].handle, 0)
    rig.send("c")
    assert len(rig.receive(request(batch=2))) == 2
    assert (out(rig, "messages"), out(rig, "messages", retry="true")) == (3, 1)
    assert out(rig, "throughput", retry="true") * 3 == out(rig, "throughput")


def test_acks_are_counted_once(rig: Rig) -> None:
    """A repeated ack is answered OK and settles nothing, so it does not count; a wrong one neither."""
    rig.send("a", "b")
    handles = [message.handle for message in rig.receive(request(batch=2))]
    rig.ack(handles[0])
    rig.ack(*handles, "garbage")
    rig.ack(*handles)
    name = f'rmq_acked_messages_total{{{ON_TOPIC},is_system="false"}}'
    assert numbers(rig)[name] == 2


def test_dead_letters_are_counted_under_the_topic_that_they_died_in(rig: Rig) -> None:
    """Whoever buried them."""
    rig.send("a", "b")
    one, _ = rig.receive(request(batch=2))
    rig.bury(one.handle)
    name = f'rocketmq_send_to_dlq_messages_total{{{ON_TOPIC},is_system="false"}}'
    assert numbers(rig)[name] == 1


def test_a_group_that_waits_has_a_backlog(rig: Rig) -> None:
    """Lag is ready and with a client; ready is never delivered and to be delivered again."""
    rig.receive()
    rig.send("a", "b", "c", "d")
    handles = [message.handle for message in rig.receive(request(batch=3))]
    rig.ack(handles[0])
    rig.change(handles[1], 0)
    names = ("lag_messages", "inflight_messages", "ready_messages")
    assert [of_group(rig, name) for name in names] == [3, 1, 2]


def test_the_age_of_a_backlog_is_told(rig: Rig) -> None:
    """Of the oldest that is not settled, and of the oldest that was never delivered; 0 where there is none."""
    rig.receive()
    ages = ("lag_latency", "queueing_latency")
    assert [of_group(rig, name) for name in ages] == [0, 0]
    rig.send("a")
    rig.advance(1000)
    assert [of_group(rig, name) for name in ages] == [1000, 1000]
    one = rig.one()
    assert [of_group(rig, name) for name in ages] == [1000, 0]
    rig.send("b")
    rig.advance(300)
    assert [of_group(rig, name) for name in ages] == [1300, 300]
    rig.ack(one.handle)
    assert [of_group(rig, name) for name in ages] == [300, 300]


def test_what_is_deleted_takes_its_numbers_along(rig: Rig) -> None:
    """A topic's and a group's; another of its name begins at nothing."""
    rig.send("a")
    rig.ack(rig.one().handle)
    rig.wait(rig.broker.admin.delete_group(GROUP))
    assert not any(GROUP in name for name in numbers(rig))
    rig.wait(rig.broker.admin.delete_topic(TOPIC))
    assert not any(TOPIC in name for name in numbers(rig))
    rig.send("b")
    labels = f'{{topic="{TOPIC}",message_type="normal",is_system="false"}}'
    assert numbers(rig)[f"rocketmq_messages_in_total{labels}"] == 1


@pytest.mark.parametrize("family", ["rmq_topic_messages{", "rocketmq_consumer_lag_messages{"])
def test_what_is_deleted_during_a_scrape_is_left_out(rig: Rig, family: str) -> None:
    """A topic goes right after another's first sample: the scrape goes on with the others."""
    for topic in ("one", "two", "three"):
        rig.send("a", topic=topic)
        rig.receive(request(topic))
    page, dropped = Exposition({}), False
    for source in rig.broker.metrics.sources:
        for _ in source(page):
            if not dropped and any(line.startswith(family) for line in page.encode().decode().splitlines()):
                dropped = True
                rig.wait(rig.broker.admin.delete_topic("two"))
    told_now = [line for line in page.encode().decode().splitlines() if line.startswith(family)]
    assert [topic for topic in ("one", "two", "three") if topic in "".join(told_now)] == ["one", "three"]


def test_topics_and_groups_beyond_the_limit_are_numbered_only(make_rig: MakeRig) -> None:
    """Each kind has its first ones told, and how many are not."""
    rig = make_rig(metrics_series_max=2)
    for number in range(5):
        rig.send("a", topic=f"t{number}")
    for number in range(3):
        rig.receive(request(f"t{number}"))
    found = numbers(rig)
    assert sum(name.startswith("rmq_topic_offset") for name in found) == 2
    assert sum(name.startswith("rocketmq_messages_in_total") for name in found) == 2
    assert sum(name.startswith("rocketmq_consumer_lag_messages") for name in found) == 2
    assert (found['rmq_metrics_left_out{what="topics"}'], found['rmq_metrics_left_out{what="groups"}']) == (3, 1)


def test_marks_of_replayed_dead_letters_are_no_group(rig: Rig) -> None:
    """The server's own place in a dead letter topic is not anyone's backlog."""
    rig.send("a")
    rig.bury(rig.one().handle)
    assert rig.wait(rig.broker.admin.replay(GROUP, [])) == 1
    assert not any("CID_RMQ_SYS" in name for name in numbers(rig))


def test_the_tables_in_numbers(rig: Rig) -> None:
    """Topics, groups, what is open, leases, timers, polls."""
    rig.send("a", "b", "c")
    rig.receive(request(batch=2))
    rig.receive()
    polling = rig.poll(request(poll_ms=5000))
    found = numbers(rig)
    assert found["rocketmq_broker_permission"] == READ_AND_WRITE
    assert (found["rocketmq_topic_number"], found["rocketmq_consumer_group_number"]) == (1, 1)
    assert (found["rmq_open_messages"], found["rmq_leases"], found["rmq_timers"]) == (3, 2, 2)
    assert found["rmq_waiting_polls"] == 1
    assert not polling.done()


def test_topics_tell_what_they_keep(rig: Rig) -> None:
    """All that ever came, and what is still here."""
    rig.send("a", "b", "c")
    labels = f'{{topic="{TOPIC}",is_system="false"}}'
    found = numbers(rig)
    assert (found[f"rmq_topic_offset{labels}"], found[f"rmq_topic_messages{labels}"]) == (3, 3)


def test_a_store_in_memory_says_so(rig: Rig) -> None:
    """Nothing is behind where nothing is ever synced."""
    rig.send("a")
    where = '{storage_type="local",storage_medium="memory"}'
    assert numbers(rig)[f"rocketmq_storage_flush_behind_bytes{where}"] == 0


@pytest.mark.parametrize("mode", [Mode.DURABLE.value, Mode.FAST.value])
def test_the_log_and_its_flushes(make_rig: MakeRig, tmp_path: Path, mode: str) -> None:
    """Positions, size, age, and what each fsync took; durable syncs before it answers."""
    rig = make_rig(flush=mode, data=str(tmp_path / "data"), **SMALL)
    rig.send("a")
    rig.advance(5000)
    rig.run_while(lambda: numbers(rig)["rmq_flush_seconds_count"] == 0)
    rig.run_while(lambda: rig.broker._store.flusher.synced < rig.broker._store.log.end)
    found, log = numbers(rig), rig.broker._store.log
    where = '{storage_type="local",storage_medium="disk"}'
    assert found["rmq_flush_seconds_count"] >= 1
    assert found[f"rocketmq_storage_size{where}"] == log.end - log.begin > 0
    assert found[f"rocketmq_storage_flush_behind_bytes{where}"] == 0
    assert found[f"rocketmq_storage_message_reserve_time{where}"] >= 5000
    assert found["rmq_log_begin"] == 0
    assert found["rmq_log_end"] == found["rmq_log_written"] == found["rmq_log_safe"] == log.end
    assert found["rmq_disk_free_bytes"] > 0


def test_damage_is_counted_for_a_scrape_and_for_describe(rig: Rig) -> None:
    """By kind in the one, in all in the other."""
    rig.send("a", "b")
    damage = rig.broker._store.damage
    assert rig.broker.admin.describe().damaged == 0
    damage.add(ranges=2, entries=250)
    damage.set_aside_bytes = 700
    first = rig.broker._store.state.topics[TOPIC].queues[0].read(0, 1)[0]
    rig.broker._store.log.segments[0].file.write(first.position + 50, b"x")
    assert bodies(rig.receive(request(batch=9))) == ["b"]
    found, info = numbers(rig), rig.broker.admin.describe()
    counts = [found[f'rmq_damaged_total{{what="{what}"}}'] for what in ("log", "queue", "message")]
    assert counts[:2] == [2, 250]
    assert counts[2] >= 1
    assert info.damaged == sum(counts)
    assert found["rmq_set_aside_bytes"] == info.set_aside_bytes == 700


def test_an_age_that_cannot_be_read_is_none(rig: Rig) -> None:
    """The oldest record is damaged: the scrape goes on."""
    rig.send("a")
    log = rig.broker._store.log
    log.segments[0].file.write(0, bytes(64))
    where = '{storage_type="local",storage_medium="memory"}'
    assert numbers(rig)[f"rocketmq_storage_message_reserve_time{where}"] == 0


def test_a_reset_group_has_the_backlog_from_there(rig: Rig) -> None:
    """As its places say."""
    rig.send("a", "b")
    rig.receive(request(batch=2))
    rig.wait(rig.broker.admin.reset_offset(GROUP, TOPIC, Start()))
    assert (of_group(rig, "lag_messages"), of_group(rig, "inflight_messages")) == (2, 0)


def test_a_refused_send_counts_nothing(rig: Rig) -> None:
    """Only what is in the log came in."""
    with pytest.raises(ClientError):
        rig.send(outgoing("a", __LITE_TOPIC="l", __SHARDINGKEY="g"))
    assert not any(name.startswith("rocketmq_messages_in_total") for name in numbers(rig))


def test_messages_that_wait_for_others_of_their_group_are_told_apart(make_rig: MakeRig) -> None:
    """They are lag, and cannot be delivered now; their age is that of what was never delivered."""
    rig = make_rig(**FIFO)
    rig.send(*grouped("a1", "a2", "a3", "b1"))
    first, second = rig.receive(request(batch=32))
    rig.advance(5_000)
    assert numbers(rig)["rmq_parked_messages"] == 2
    assert numbers(rig)[f'rmq_consumer_parked_messages{{{ON_TOPIC},is_system="false"}}'] == 2
    gauges = ("lag_messages", "inflight_messages", "ready_messages", "queueing_latency", "lag_latency")
    assert [of_group(rig, name) for name in gauges] == [4, 2, 0, 5_000, 5_000]
    rig.ack(first.handle, second.handle)
    assert [of_group(rig, name) for name in gauges] == [2, 0, 0, 5_000, 5_000]


def test_deliveries_of_message_groups_are_counted(make_rig: MakeRig) -> None:
    """First ones, those after a lease's end, and a receive asked again with its attempt id."""
    rig = make_rig(**FIFO)
    rig.send(*grouped("a1", "a2"))
    asked = request(batch=32, attempt_id="1", fifo=True)
    assert [len(rig.receive(asked)) for _ in range(2)] == [2, 2]
    assert (out(rig, "messages"), out(rig, "messages", retry="true")) == (2, 2)
    rig.advance(31_000)
    assert len(rig.receive(request(batch=32))) == 1
    assert (out(rig, "messages"), out(rig, "messages", retry="true")) == (2, 3)


def test_transactions_are_told_by_topic(rig: Rig) -> None:
    """Those that live, those that ended either way, and checks; what goes with a topic is told no more."""
    texts = [rig.send(outgoing(body, TRAN_MSG="true"))[0].transaction_id for body in "abcd"]
    for text, commit in zip(texts, (True, True, False), strict=False):
        rig.wait(rig.broker.end_transaction(TOPIC, text, commit))
    topic = f'{{topic="{TOPIC}"}}'
    found = numbers(rig)
    assert found[f"rocketmq_half_messages{topic}"] == found["rmq_transactions"] == 1
    assert found[f"rocketmq_commit_messages_total{topic}"] == 2
    assert found[f"rocketmq_rollback_messages_total{topic}"] == 1
    assert found[f"rmq_transaction_checks_total{topic}"] == found["rmq_transactions_parked"] == 0
    producers = Producers()
    rig.broker.asks(producers)
    rig.advance(6000)
    assert numbers(rig)[f"rmq_transaction_checks_total{topic}"] == 1
    rig.wait(rig.broker.end_transaction(TOPIC, texts[3], commit=False))
    assert f"rocketmq_half_messages{topic}" not in numbers(rig)
    rig.wait(rig.broker.admin.delete_topic(TOPIC))
    assert f"rocketmq_commit_messages_total{topic}" not in numbers(rig)
