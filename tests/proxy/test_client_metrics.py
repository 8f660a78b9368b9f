"""Who is connected, as a scrape tells it."""

from rmq_proto import v2
from rmq_proxy.clientmetrics import AGENT_CHARS_MAX, ClientMetrics
from tests.proxy.rig import GROUP, TOPIC, Rig, a_call, publishing, receiving, subscribing
from tests.scraping import samples, told


def by_agent(settings: v2.Settings, language: int, version: str) -> v2.Settings:
    """The settings of a client of that kind."""
    settings.user_agent.language = language
    settings.user_agent.version = version
    return settings


def numbers(rig: Rig, series_max: int = 100) -> dict[str, float]:
    """All samples."""
    return samples(told(ClientMetrics(rig.sessions, rig.telemetry, series_max=series_max)))


def connected(rig: Rig, client_id: str, settings: v2.Settings) -> None:
    """A client that sent its settings on a stream which stays open."""
    rig.tell(settings, a_call(client_id=client_id))


def test_producers_and_consumers_by_what_they_say_of_themselves() -> None:
    """Language, version, and for consumers their group and how they consume."""
    rig = Rig()
    connected(rig, "p1", by_agent(publishing(TOPIC), v2.GOLANG, "5.1.0"))
    connected(rig, "p2", by_agent(publishing(TOPIC), v2.GOLANG, "5.1.0"))
    connected(rig, "c1", by_agent(subscribing(TOPIC), v2.JAVA, "5.0.7"))
    connected(rig, "c2", by_agent(subscribing(TOPIC, client_type=v2.SIMPLE_CONSUMER), v2.JAVA, "5.0.7"))
    found = numbers(rig)
    assert found['rocketmq_producer_connections{language="GOLANG",version="5.1.0",protocol_type="grpc"}'] == 2
    consumer = f'consumer_group="{GROUP}",language="JAVA",version="5.0.7"'
    for mode in ("push", "simple"):
        rest = f'consume_mode="{mode}",protocol_type="grpc",is_system="false"'
        assert found[f"rocketmq_consumer_connections{{{consumer},{rest}}}"] == 1
    assert (found["rmq_clients"], found["rmq_telemetry_streams"]) == (4, 4)


def test_a_client_without_settings_is_counted_all_the_same() -> None:
    """After a restart every client is like that."""
    rig = Rig()
    rig.listing("ReceiveMessage", receiving(), a_call(client_id="c"))
    rest = f'consumer_group="{GROUP}",language="",version="",consume_mode="other",protocol_type="grpc"'
    assert numbers(rig)[f'rocketmq_consumer_connections{{{rest},is_system="false"}}'] == 1


def test_what_clients_say_makes_no_series_without_end() -> None:
    """Versions beyond the limit are told together, long ones are cut."""
    rig = Rig()
    for number in range(9):
        connected(rig, f"p{number}", by_agent(publishing(TOPIC), v2.RUST, f"{number}" + "x" * 500))
    found = {name: value for name, value in numbers(rig, 3).items() if name.startswith("rocketmq_producer")}
    assert sorted(found.values()) == [1, 1, 1, 6]
    assert found['rocketmq_producer_connections{language="other",version="other",protocol_type="other"}'] == 6
    assert max(map(len, found)) < 80 + AGENT_CHARS_MAX
