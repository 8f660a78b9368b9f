"""`rmq group`."""

import json

import pytest

from rmq.commands import views
from rmq.config import GROUP_FLAGS
from rmq_proto import admin as pb
from tests.rmq.commands.rig import NOW_MS, Commands, FakeServer


def billing() -> pb.Group:
    """A group with lag, leases and a consumer."""
    places = [pb.Place(queue_id=0, committed_offset=3, next_offset=5, max_offset=17, open=2)]
    leases = [pb.Lease(queue_id=0, offset=3, attempt=2, due_ms=NOW_MS, client_id="c1", message_id="ID3")]
    leases.append(pb.Lease(queue_id=0, offset=4, attempt=1, message_id="ID4"))
    orders = pb.GroupTopic(topic="orders", lag_messages=12, lag_ms=3400, leased=1, ready=1, waiting_polls=2)
    orders.places.extend(places)
    orders.leases.extend(leases)
    refunds = pb.GroupTopic(topic="refunds", lag_messages=1, lag_ms=65_000)
    return pb.Group(name="billing", attempts_max=17, retry_ms=[1000, 60_000], topics=[orders, refunds], clients=["c1"])


def consumer() -> pb.Client:
    """Its consumer."""
    return pb.Client(
        client_id="c1",
        type="PUSH_CONSUMER",
        language="JAVA",
        version="5.0.7",
        peer="10.0.0.1:9",
        groups=["billing"],
        subscriptions={"orders": "a || b", "refunds": "*"},
        silent_ms=1500,
        stream=True,
        leases=1,
    )


@pytest.fixture
def groups(server: FakeServer) -> FakeServer:
    """A server with that group and consumer."""
    server.answers["groups"] = [billing()]
    server.answers["clients"] = [consumer()]
    return server


def test_create_takes_a_retry_policy(rmq: Commands, server: FakeServer) -> None:
    """Durations with units."""
    result = rmq("group", "create", "billing", "--attempts-max", "3", "--retry", "500ms,10s,2m")
    assert result == (0, "group billing: 3 deliveries at most, again after 500 ms, 10 s, 2 m\n", "")
    assert server.asked("put_group") == [("billing", 3, (500, 10_000, 120_000), True, False)]


def test_a_group_may_be_orderly(rmq: Commands, server: FakeServer) -> None:
    """When it is made and later; nothing is said of the order where it is not asked for."""
    assert rmq("group", "create", "billing", "--orderly").out.endswith(", in order per queue\n")
    assert not rmq("group", "update", "billing", "--no-orderly").out.endswith(", in order per queue\n")
    assert [asked[5:] for asked in server.asked("put_group")] == [(("orderly", True),), (("orderly", False),)]


def test_each_flag_of_a_group_is_told() -> None:
    """Those that there are, in the same order."""
    assert tuple(views.GROUP_FLAG_WORDS) == GROUP_FLAGS


LITE_FLAGS = [
    ("--lite-exclusive", "--lite-shared", ", lite topics exclusive\n"),
    ("--lite-reset-on-takeover", "--no-lite-reset-on-takeover", ", from the beginning when taken over\n"),
    ("--lite-reset-on-unsubscribe", "--no-lite-reset-on-unsubscribe", ", from the beginning after an unsubscription\n"),
]


@pytest.mark.parametrize(("on", "off", "words"), LITE_FLAGS)
def test_how_a_group_subscribes_lite_topics(rmq: Commands, server: FakeServer, on: str, off: str, words: str) -> None:
    """When it is made and later, each by itself."""
    assert rmq("group", "create", "desks", on).out.endswith(words)
    assert not rmq("group", "update", "desks", off).out.endswith(words)
    name = on[2:].replace("-", "_")
    assert [asked[5:] for asked in server.asked("put_group")] == [((name, True),), ((name, False),)]


@pytest.mark.parametrize(("given", "sent"), [("5s,2h", "5000,7200000,2"), ("500ms,1m,1.5", "500,60000,1.5")])
def test_pauses_may_grow(rmq: Commands, server: FakeServer, given: str, sent: str) -> None:
    """From the first to the longest, by a factor; for a new group and one that is there."""
    initial_ms, max_ms, multiplier = sent.split(",")
    growing = pb.Backoff(initial_ms=int(initial_ms), max_ms=int(max_ms), multiplier=float(multiplier))
    server.answers["put_group"] = pb.Group(name="billing", attempts_max=17, backoff=growing)
    told = rmq("group", "create", "billing", "--backoff", given).out
    assert f"each pause {multiplier} times the one before, at most" in told
    assert rmq("group", "update", "billing", "--backoff", given).code == 0
    assert [asked[2] for asked in server.asked("put_group")] == [sent, sent]


@pytest.mark.parametrize("given", ["5s", "5s,", "5s,2h,x", "5,2h", "5s,2h,nan"])
def test_a_back_off_that_is_none_is_refused(rmq: Commands, given: str) -> None:
    """With how to write it; so are two policies at once."""
    assert "write" in rmq.fails("group", "create", "billing", "--backoff", given, code=2)
    both = rmq.fails("group", "create", "billing", "--backoff", "5s,2h", "--retry", "1s", code=2)
    assert "exclude each other" in both


def test_create_fails_where_the_group_is_there(rmq: Commands, server: FakeServer) -> None:
    """In the server's words."""
    server.fail("put_group", "exists", "group billing is there already")
    assert rmq.fails("group", "create", "billing", code=1) == "group billing is there already"


def test_list_sums_up_lag_and_what_is_held(rmq: Commands, groups: FakeServer) -> None:
    """The lag in time is the oldest of all topics'."""
    assert rmq("group", "list").out.splitlines() == [
        "GROUP    TOPICS  LAG  LAG TIME  LEASED  READY  WAITING  CLIENTS  FLAGS",
        "billing       2   13  1 m 5 s        1      1        2        1  -",
    ]


def test_list_and_show_tell_flags(rmq: Commands, server: FakeServer) -> None:
    """Those that are on; all of them as JSON."""
    desks = pb.Group(name="desks", attempts_max=17, retry_ms=[1000], orderly=True, lite_exclusive=True)
    server.answers["groups"] = [desks]
    assert rmq("group", "list").out.splitlines()[1].endswith("  orderly lite_exclusive")
    assert rmq("group", "show", "desks").out.startswith(
        "group desks: 17 deliveries at most, again after 1 s, in order per queue, lite topics exclusive\n"
    )
    for found in (
        json.loads(rmq("group", "list", "--json").out)["groups"],
        [json.loads(rmq("group", "show", "desks", "--json").out)],
    ):
        assert [found[0][flag] for flag in GROUP_FLAGS] == [True, True, False, False]


def test_list_as_json(rmq: Commands, groups: FakeServer) -> None:
    """One document, in the contract's words."""
    [found] = json.loads(rmq("group", "list", "--json").out)["groups"]
    assert (found["name"], found["attempts_max"], found["retry_ms"]) == ("billing", 17, [1000, 60_000])
    orders = found["topics"][0]
    assert (orders["lag_messages"], orders["lag_ms"], orders["waiting_polls"]) == (12, 3400, 2)
    assert orders["places"] == [
        {"queue_id": 0, "committed_offset": 3, "next_offset": 5, "max_offset": 17, "open": 2},
    ]


def test_no_groups_are_a_note_and_an_empty_list(rmq: Commands, server: FakeServer) -> None:
    """Standard output stays empty."""
    assert rmq("group", "list") == (0, "", "there are no groups yet\n")
    assert json.loads(rmq("group", "list", "--json").out) == {"groups": []}


def test_show_tells_places_lag_polls_and_consumers(rmq: Commands, groups: FakeServer) -> None:
    """What mqadmin does not know of gRPC consumers."""
    lines = rmq("group", "show", "billing").out.splitlines()
    assert lines[0] == "group billing: 17 deliveries at most, again after 1 s, 1 m"
    assert "orders    12  3.4 s          1      1        2" in lines
    assert "orders      0          3     5   17     2" in lines
    assert [cell.strip() for cell in lines[-1].split("  ") if cell] == [
        "c1", "PUSH_CONSUMER", "JAVA 5.0.7", "10.0.0.1:9", "billing", "orders(a || b) refunds", "1.5 s", "open", "1",
    ]  # fmt: skip
    assert groups.asked("groups") == [("billing", False)]
    assert groups.asked("clients") == [("billing",)]


def test_show_leases_lists_open_messages(rmq: Commands, groups: FakeServer) -> None:
    """Who has them until when, or that they are ready to be delivered again."""
    out = rmq("group", "show", "billing", "--leases").out
    assert "orders      0       3        2  2026-09-2" in out
    assert "orders      0       4        1  ready" in out
    assert groups.asked("groups") == [("billing", True)]


def test_show_as_json_holds_the_consumers_too(rmq: Commands, groups: FakeServer) -> None:
    """With their settings."""
    found = json.loads(rmq("group", "show", "billing", "--leases", "--json").out)
    assert found["topics"][0]["leases"][0] == {
        "queue_id": 0, "offset": 3, "attempt": 2, "due_ms": NOW_MS, "client_id": "c1", "message_id": "ID3",
    }  # fmt: skip
    assert found["consumers"][0]["subscriptions"] == {"orders": "a || b", "refunds": "*"}


def test_a_group_without_consumers_says_so(rmq: Commands, groups: FakeServer) -> None:
    """The first question of whoever wonders about lag."""
    groups.answers["clients"] = []
    assert rmq("group", "show", "billing").out.endswith("no consumer of this group is connected\n")


def test_update_changes_only_what_is_there(rmq: Commands, server: FakeServer) -> None:
    """And has to be told what."""
    assert rmq("group", "update", "billing", "--attempts-max", "5").code == 0
    assert server.asked("put_group") == [("billing", 5, (), False, True)]
    assert "say what to change" in rmq.fails("group", "update", "billing", code=2)


@pytest.mark.parametrize(
    ("to", "asked"),
    [
        ("begin", (True, False, None)),
        ("end", (False, True, None)),
        ("1790000000000", (False, False, NOW_MS)),
        ("2026-09-21T14:13:20Z", (False, False, NOW_MS)),
        ("2026-09-21T16:13:20+02:00", (False, False, NOW_MS)),
    ],
)
def test_reset_offset_goes_where_it_is_told(
    rmq: Commands, groups: FakeServer, to: str, asked: tuple[object, ...]
) -> None:
    """Begin, end, or a time, and says what is to come."""
    groups.answers["reset_offset"] = billing()
    result = rmq("group", "reset-offset", "billing", "orders", "--to", to)
    assert result.out == "group billing goes on in orders: 12 messages lie before it\n"
    assert groups.asked("reset_offset") == [("billing", "orders", *asked)]


def test_reset_offset_refuses_what_is_no_time(rmq: Commands, server: FakeServer) -> None:
    """And must be told where to."""
    assert "neither begin, end nor a time" in rmq.fails("group", "reset-offset", "g", "t", "--to", "noon", code=2)
    assert "--to" in rmq.fails("group", "reset-offset", "g", "t", code=2)
    assert server.calls == []


def test_delete_asks_and_says_what_goes(rmq: Commands, groups: FakeServer) -> None:
    """As for a topic."""
    assert "Delete group billing with its places in 2 topics?" in rmq.fails("group", "delete", "billing", code=2)
    assert groups.asked("delete_group") == []
    assert rmq("group", "delete", "billing", "--yes").out == "deleted group billing\n"
    assert groups.asked("delete_group") == [("billing",)]
