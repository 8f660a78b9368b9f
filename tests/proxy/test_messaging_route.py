"""QueryRoute and QueryAssignment: which queues, which permissions, which endpoints."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from rmq.errors import ClientError, Code, ConfigError
from rmq.message import MessageType
from rmq.port import BrokerQueues, GroupView
from rmq.retry import RetryPolicy
from rmq_proto import v2
from rmq_proxy.rpc import Call
from tests.proxy.rig import ALL_TYPES, GROUP, TOPIC, Rig, a_call


def asking(topic: str = TOPIC, scheme: int = 0, addresses: Sequence[tuple[str, int]] = ()) -> v2.QueryRouteRequest:
    """A query for a route, with endpoints perhaps."""
    request = v2.QueryRouteRequest()
    request.topic.name = topic
    request.endpoints.scheme = scheme
    for host, port in addresses:
        address = request.endpoints.addresses.add()
        address.host, address.port = host, port
    return request


def assigning(topic: str = TOPIC, group: str = GROUP) -> v2.QueryAssignmentRequest:
    """A query for an assignment."""
    request = v2.QueryAssignmentRequest()
    request.topic.name, request.group.name = topic, group
    return request


def route(rig: Rig, request: v2.QueryRouteRequest, call: Call | None = None) -> v2.QueryRouteResponse:
    """Asks, and is answered at once."""
    return rig.ask(v2.QueryRouteResponse.FromString, "QueryRoute", request, call)


def assign(rig: Rig, request: v2.QueryAssignmentRequest) -> v2.QueryAssignmentResponse:
    """Asks, and is answered at once."""
    return rig.ask(v2.QueryAssignmentResponse.FromString, "QueryAssignment", request)


def spelled(endpoints: v2.Endpoints) -> tuple[int, list[tuple[str, int]]]:
    """Endpoints, to be compared."""
    return endpoints.scheme, [(a.host, a.port) for a in endpoints.addresses]


ENDPOINTS = [
    ("what the client named", None, (v2.IPv4, [("127.0.0.1", 8091)]), "x:1", (v2.IPv4, [("127.0.0.1", 8091)])),
    (
        "all that the client named",
        None,
        (v2.IPv4, [("10.0.0.1", 1), ("10.0.0.2", 2)]),
        "x:1",
        (v2.IPv4, [("10.0.0.1", 1), ("10.0.0.2", 2)]),
    ),
    ("a scheme for what has none", None, (0, [("mq.example", 8081)]), "x:1", (v2.DOMAIN_NAME, [("mq.example", 8081)])),
    (
        "one domain name, not several",
        None,
        (v2.DOMAIN_NAME, [("a.example", 1), ("b.example", 2)]),
        "x:1",
        (v2.DOMAIN_NAME, [("a.example", 1)]),
    ),
    ("a domain dialled", None, (0, []), "mq.example:8081", (v2.DOMAIN_NAME, [("mq.example", 8081)])),
    ("an IPv4 address dialled", None, (v2.IPv4, []), "10.0.0.7:9", (v2.IPv4, [("10.0.0.7", 9)])),
    ("an IPv6 address dialled", None, (0, []), "[::1]:8081", (v2.IPv6, [("::1", 8081)])),
    ("dialled without a port", None, (0, []), "mq.example", (v2.DOMAIN_NAME, [("mq.example", 80)])),
    ("an IPv6 address without a port", None, (0, []), "[fe80::1]", (v2.IPv6, [("fe80::1", 80)])),
    ("advertised", "pub.example:18081", (v2.IPv4, [("127.0.0.1", 1)]), "x:1", (3, [("pub.example", 18081)])),
    ("advertised IPv6", "[2001:db8::5]:1", (0, []), "x:1", (v2.IPv6, [("2001:db8::5", 1)])),
]


@pytest.mark.parametrize(
    ("advertise", "named", "authority", "expected"), [e[1:] for e in ENDPOINTS], ids=[e[0] for e in ENDPOINTS]
)
def test_endpoints(
    advertise: str | None,
    named: tuple[int, list[tuple[str, int]]],
    authority: str,
    expected: tuple[int, list[tuple[str, int]]],
) -> None:
    """--advertise, else what the request names, else :authority; the same in a route and in an assignment."""
    rig = Rig(advertise=advertise)
    queues = route(rig, asking(TOPIC, *named), a_call(authority=authority)).message_queues
    assert [spelled(q.broker.endpoints) for q in queues] == [expected, expected]
    request = assigning()
    request.endpoints.CopyFrom(asking(TOPIC, *named).endpoints)
    answer = rig.ask(v2.QueryAssignmentResponse.FromString, "QueryAssignment", request, a_call(authority=authority))
    assert [spelled(a.message_queue.broker.endpoints) for a in answer.assignments] == [expected]


def test_port_of_tls() -> None:
    """An :authority without a port means 443 over TLS."""
    (queue, *_) = route(Rig(), asking(), a_call(authority="mq.example", tls=True)).message_queues
    assert spelled(queue.broker.endpoints) == (v2.DOMAIN_NAME, [("mq.example", 443)])


@pytest.mark.parametrize(("host", "told"), [("10.0.0.5", "10.0.0.5"), ("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")])
def test_transport_without_authority(host: str, told: str) -> None:
    """Where nothing says how the client reached us, it is told where we listen; an :authority goes before that."""
    rig = Rig()
    rig.messaging.listens_on(host, 18081)
    (queue, *_) = route(rig, asking(), a_call(authority="")).message_queues
    assert spelled(queue.broker.endpoints) == (v2.IPv4, [(told, 18081)])
    (queue, *_) = route(rig, asking(), a_call(authority="mq.example:1")).message_queues
    assert spelled(queue.broker.endpoints) == (v2.DOMAIN_NAME, [("mq.example", 1)])


PLAIN = [MessageType.NORMAL, MessageType.FIFO]
OLD_CLIENTS = [
    ("JAVA", "5.1.0", PLAIN),
    ("java", "5.0.8", PLAIN),
    ("JAVA", "", PLAIN),
    ("JAVA", "5.2.0", [*PLAIN, MessageType.PRIORITY]),
    ("JAVA", "5.10.0-SNAPSHOT", [*PLAIN, MessageType.PRIORITY]),
    ("DOTNET", "5.2.0-rc1", PLAIN),
    ("DOTNET", "5.2.1+1f3c", [*PLAIN, MessageType.PRIORITY]),
    ("GOLANG", "5.0.0", [*PLAIN, MessageType.PRIORITY]),
    ("", "", [*PLAIN, MessageType.PRIORITY]),
]


@pytest.mark.parametrize(("language", "version", "told"), OLD_CLIENTS)
def test_a_client_is_told_of_no_type_that_would_make_it_refuse_the_route(
    language: str, version: str, told: list[MessageType]
) -> None:
    """Java's and C#'s raise an error for a type that is newer than they are."""
    rig = Rig()
    rig.broker.queues = [BrokerQueues("broker-a", 1, 1, True, True, (*PLAIN, MessageType.PRIORITY))]
    (queue,) = route(rig, asking(), a_call(x_mq_language=language, x_mq_client_version=version)).message_queues
    assert list(queue.accept_message_types) == [kind.value for kind in told]


BAD_ENDPOINTS = [
    ("port 0", (v2.IPv4, [("127.0.0.1", 0)]), "x:1"),
    ("port -1", (v2.IPv4, [("127.0.0.1", -1)]), "x:1"),
    ("port 65536", (v2.IPv4, [("127.0.0.1", 65_536)]), "x:1"),
    ("no host", (v2.IPv4, [("", 8081)]), "x:1"),
    ("a zero byte", (0, [("a\0b", 8081)]), "x:1"),
    ("a host without end", (0, [("h" * 256, 8081)]), "x:1"),
    ("no authority", (0, []), ""),
    ("a socket's path", (0, []), "/run/rmq.sock"),
    ("a port that is none", (0, []), "mq.example:x"),
]


@pytest.mark.parametrize(("named", "authority"), [b[1:] for b in BAD_ENDPOINTS], ids=[b[0] for b in BAD_ENDPOINTS])
def test_unusable_endpoints(named: tuple[int, list[tuple[str, int]]], authority: str) -> None:
    """An access point that nobody can dial is refused with 40001."""
    response = route(Rig(), asking(TOPIC, *named), a_call(authority=authority))
    assert response.status.code == Code.ILLEGAL_ACCESS_POINT.value
    assert not response.message_queues


@pytest.mark.parametrize("advertise", ["host", "host:0", "host:x", ":8081", "::1:8081"])
def test_bad_advertise(advertise: str) -> None:
    """An --advertise that is no HOST:PORT stops the start with one line that quotes it."""
    with pytest.raises(ConfigError, match=advertise):
        Rig(advertise=advertise)


def test_route() -> None:
    """Ids count up from 0, broker id 0, the broker's name, read-write, and every type that the broker accepts."""
    queues = route(Rig(), asking()).message_queues
    assert [(q.topic.name, q.id, q.permission, q.broker.name, q.broker.id) for q in queues] == [
        (TOPIC, 0, v2.READ_WRITE, "broker-a", 0),
        (TOPIC, 1, v2.READ_WRITE, "broker-a", 0),
    ]
    assert list(queues[1].accept_message_types) == [v2.NORMAL, v2.FIFO, v2.DELAY, v2.TRANSACTION]


PERMISSIONS = [
    ("more to read", 3, 1, True, True, [v2.READ, v2.READ, v2.READ_WRITE]),
    ("more to write", 1, 3, True, True, [v2.WRITE, v2.WRITE, v2.READ_WRITE]),
    ("read only", 2, 2, True, False, [v2.READ, v2.READ]),
    ("write only", 2, 2, False, True, [v2.WRITE, v2.WRITE]),
    ("neither", 2, 1, False, False, [v2.NONE, v2.NONE]),
]


@pytest.mark.parametrize(
    ("read", "write", "readable", "writable", "expected"), [p[1:] for p in PERMISSIONS], ids=[p[0] for p in PERMISSIONS]
)
def test_permissions(read: int, write: int, readable: bool, writable: bool, expected: list[int]) -> None:
    """Read-only queues come first, then write-only ones, then the rest."""
    rig = Rig()
    rig.broker.queues = [BrokerQueues("b", read, write, readable, writable, (MessageType.NORMAL,))]
    queues = route(rig, asking()).message_queues
    assert [(q.id, q.permission) for q in queues] == list(enumerate(expected))


def test_route_of_a_namespace() -> None:
    """The broker sees the stored name, the client its own Resource again."""
    rig = Rig()
    request = asking()
    request.topic.resource_namespace = "ns"
    (queue, *_) = route(rig, request).message_queues
    assert (queue.topic.resource_namespace, queue.topic.name) == ("ns", TOPIC)
    assert rig.broker.of("route") == [("ns%orders",)]


def test_route_by_the_header() -> None:
    """With the namespace in the header only, the topic is echoed as it was sent: without one."""
    rig = Rig()
    (queue, *_) = route(rig, asking(), a_call(x_mq_namespace="ns")).message_queues
    assert (queue.topic.resource_namespace, queue.topic.name) == ("", TOPIC)
    assert rig.broker.of("route") == [("ns%orders",)]


@pytest.mark.parametrize("verb", ["route", "assignment"])
def test_unknown_topic(verb: str) -> None:
    """The broker's 40402 comes with its text, which people search for."""
    rig = Rig()
    rig.broker.answers[verb] = ClientError(Code.TOPIC_NOT_FOUND, "No topic route info in name server for the topic: x")
    status = route(rig, asking()).status if verb == "route" else assign(rig, assigning()).status
    assert (status.code, status.message) == (40402, "No topic route info in name server for the topic: x")


def test_assignment_of_a_standard_group() -> None:
    """One queue of id -1 per broker, with its permission and without types."""
    rig = Rig()
    rig.broker.queues = [
        BrokerQueues("a", 8, 8, True, True, ALL_TYPES),
        BrokerQueues("b", 8, 8, True, False, ALL_TYPES),
        BrokerQueues("c", 8, 8, False, True, ALL_TYPES),
        BrokerQueues("d", 0, 8, True, True, ALL_TYPES),
    ]
    queues = [a.message_queue for a in assign(rig, assigning()).assignments]
    assert [(q.broker.name, q.id, q.permission) for q in queues] == [("a", -1, v2.READ_WRITE), ("b", -1, v2.READ)]
    assert not queues[0].accept_message_types


def test_assignment_of_a_fifo_group() -> None:
    """Every queue by its id."""
    rig = Rig()
    rig.broker.view = GroupView(fifo=True, attempts_max=17, retry=RetryPolicy())
    assert [a.message_queue.id for a in assign(rig, assigning()).assignments] == [0, 1]


def test_nothing_to_read() -> None:
    """A topic without a readable queue is 40300: an empty assignment would end the client's loops."""
    rig = Rig()
    rig.broker.queues = [BrokerQueues("a", 8, 8, False, True, ALL_TYPES)]
    assert assign(rig, assigning()).status.code == Code.FORBIDDEN.value


@pytest.mark.parametrize(
    ("topic", "group", "code"),
    [(" ", GROUP, 40002), ("TBW102", GROUP, 40002), (TOPIC, " ", 40003), (TOPIC, "a/b", 40003)],
)
def test_names(topic: str, group: str, code: int) -> None:
    """Illegal names are refused before the broker is asked."""
    rig = Rig()
    assert assign(rig, assigning(topic, group)).status.code == code
    assert not rig.broker.calls


def test_assignment_from_afar(run: Callable[[Awaitable[None]], None]) -> None:
    """Where both of the broker's answers take time, ours follows the second; a late refusal is a status."""

    async def scenario() -> None:
        rig = Rig()
        loop = asyncio.get_running_loop()
        for refusal in (None, ClientError(Code.TOPIC_NOT_FOUND, "gone")):
            view: asyncio.Future[GroupView] = loop.create_future()
            queues: asyncio.Future[Sequence[BrokerQueues]] = loop.create_future()
            rig.broker.answers |= {"group": view, "assignment": queues}
            answer = rig.unary("QueryAssignment", assigning())
            assert isinstance(answer, asyncio.Future)
            view.set_result(rig.broker.view)
            await asyncio.sleep(0)
            if refusal is None:
                queues.set_result(rig.broker.queues)
            else:
                queues.set_exception(refusal)
            response = v2.QueryAssignmentResponse.FromString(await answer)
            assert response.status.code == (40402 if refusal else 20000)

    run(scenario())
