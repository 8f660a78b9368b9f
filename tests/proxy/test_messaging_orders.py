"""The table as a whole, and the call orders of the SDKs that are not run here: C++ and C#, with raw requests."""

from rmq_proto import v2
from rmq_proxy.messaging import SERVICE
from rmq_proxy.rpc import Call, Kind
from tests.proxy.rig import (
    GROUP,
    TOPIC,
    Rig,
    a_call,
    a_message,
    acking,
    delivered,
    publishing,
    receiving,
    sending,
    settings_command,
    subscribing,
)

METHODS = {
    "QueryRoute": Kind.UNARY,
    "Heartbeat": Kind.UNARY,
    "SendMessage": Kind.UNARY,
    "QueryAssignment": Kind.UNARY,
    "ReceiveMessage": Kind.LIST,
    "AckMessage": Kind.UNARY,
    "ForwardMessageToDeadLetterQueue": Kind.UNARY,
    "PullMessage": Kind.LIST,
    "UpdateOffset": Kind.UNARY,
    "GetOffset": Kind.UNARY,
    "QueryOffset": Kind.UNARY,
    "EndTransaction": Kind.UNARY,
    "Telemetry": Kind.STREAM,
    "NotifyClientTermination": Kind.UNARY,
    "ChangeInvisibleDuration": Kind.UNARY,
    "RecallMessage": Kind.UNARY,
    "SyncLiteSubscription": Kind.UNARY,
}


def test_all_methods() -> None:
    """All 17 methods of the service are served, each in its kind, with a class for limits and an action."""
    rows = {path.removeprefix(SERVICE): row for path, row in Rig().rows.items() if path.startswith(SERVICE)}
    assert {name: row.kind for name, row in rows.items()} == METHODS
    assert all(row.limit and row.action for row in rows.values())


def cpp_call(**more: str) -> Call:
    """C++ sends no request id and its protocol version under a name of its own."""
    headers = {"x_mq_language": "CPP", "x_mq_protocol_version": "v2", "x_mq_client_version": "5.0.0", **more}
    return a_call(client_id="host@42#1_1700000000000", authority="127.0.0.1:8081", headers=headers)


def with_access_point(settings: v2.Settings) -> v2.Settings:
    """With what each client says about how it reached us."""
    settings.access_point.scheme = v2.IPv4
    address = settings.access_point.addresses.add()
    address.host, address.port = "127.0.0.1", 8081
    settings.request_timeout.seconds = 3
    return settings


def query_route(rig: Rig, call: Call) -> v2.QueryRouteResponse:
    """The route as a client on 127.0.0.1:8081 asks for it."""
    request = v2.QueryRouteRequest()
    request.topic.name = TOPIC
    request.endpoints.scheme = v2.IPv4
    address = request.endpoints.addresses.add()
    address.host, address.port = "127.0.0.1", 8081
    return rig.ask(v2.QueryRouteResponse.FromString, "QueryRoute", request, call)


def test_cpp_producer() -> None:
    """Telemetry to the access point first, before any route; then the route, a heartbeat, a send, a goodbye."""
    rig = Rig()
    inlet, outlet = rig.stream(cpp_call())
    inlet.message(settings_command(with_access_point(publishing())))
    assert outlet.commands()[0].settings.backoff_policy.HasField("exponential_backoff")
    assert len(query_route(rig, cpp_call()).message_queues) == 2
    inlet.message(settings_command(with_access_point(publishing(TOPIC))))
    assert [t.name for t in outlet.commands()[1].settings.publishing.topics] == [TOPIC]
    heartbeat = v2.HeartbeatRequest()
    heartbeat.client_type = v2.PRODUCER
    assert rig.ask(v2.HeartbeatResponse.FromString, "Heartbeat", heartbeat, cpp_call()).status.code == 20000
    sent = rig.ask(v2.SendMessageResponse.FromString, "SendMessage", sending(a_message()), cpp_call())
    assert sent.entries[0].status.code == 20000
    goodbye = v2.NotifyClientTerminationRequest()
    ended = rig.ask(v2.NotifyClientTerminationResponse.FromString, "NotifyClientTermination", goodbye, cpp_call())
    assert ended.status.code == 20000
    inlet.half_closed()
    inlet.closed()


def test_cpp_push_consumer() -> None:
    """Telemetry first, with namespaces that it takes back from the echo; route, assignment, poll, ack, goodbye."""
    rig = Rig()
    settings = with_access_point(subscribing(TOPIC))
    settings.subscription.group.resource_namespace = "ns"
    settings.subscription.subscriptions[0].topic.resource_namespace = "ns"
    inlet, outlet = rig.stream(cpp_call())
    inlet.message(settings_command(settings))
    (reply,) = outlet.commands()
    assert reply.settings.subscription.subscriptions[0].topic.resource_namespace == "ns"
    assert len(reply.settings.backoff_policy.customized_backoff.next) == 18
    query_route(rig, cpp_call())
    assignment = v2.QueryAssignmentRequest()
    assignment.topic.name, assignment.group.name = TOPIC, GROUP
    assigned = rig.ask(
        v2.QueryAssignmentResponse.FromString, "QueryAssignment", assignment, cpp_call(x_mq_namespace="ns")
    ).assignments
    assert [a.message_queue.id for a in assigned] == [-1]
    rig.broker.messages = [delivered("ns%orders")]
    poll = receiving()
    poll.message_queue.CopyFrom(assigned[0].message_queue)
    message = rig.receive(poll, cpp_call())[1].message
    assert (message.topic.resource_namespace, message.topic.name) == ("ns", TOPIC)
    handle = message.system_properties.receipt_handle
    acked = rig.ask(v2.AckMessageResponse.FromString, "AckMessage", acking(handle), cpp_call())
    assert acked.status.code == 20000
    assert rig.broker.of("ack") == [("ns%billing", "ns%orders", ["handle-1"])]
    goodbye = v2.NotifyClientTerminationRequest()
    goodbye.group.name, goodbye.group.resource_namespace = GROUP, "ns"
    rig.ask(v2.NotifyClientTerminationResponse.FromString, "NotifyClientTermination", goodbye, cpp_call())
    assert rig.broker.of("offline") == [("ns%billing", "host@42#1_1700000000000")]


def dotnet_call() -> Call:
    """C# sends no protocol header."""
    return a_call(client_id="host@7@0@x", authority="localhost:8081", x_mq_language="DOTNET", x_mq_request_id="1")


def test_csharp_simple_consumer() -> None:
    """Route first, then Telemetry, receive with an invisible time, change it, ack with the new handle."""
    rig = Rig()
    assert query_route(rig, dotnet_call()).status.code == 20000
    inlet, outlet = rig.stream(dotnet_call())
    inlet.message(settings_command(with_access_point(subscribing(TOPIC, client_type=v2.SIMPLE_CONSUMER))))
    assert outlet.commands()[0].settings.subscription.long_polling_timeout.seconds == 20
    rig.broker.messages = [delivered()]
    poll = receiving(batch=16)
    poll.auto_renew = False
    poll.invisible_duration.seconds = 15
    poll.long_polling_timeout.seconds = 30
    got = rig.receive(poll, dotnet_call())[1].message.system_properties
    assert got.HasField("body_digest")
    change = v2.ChangeInvisibleDurationRequest()
    change.group.name, change.topic.name, change.receipt_handle = GROUP, TOPIC, got.receipt_handle
    change.invisible_duration.seconds = 10
    changed = rig.ask(v2.ChangeInvisibleDurationResponse.FromString, "ChangeInvisibleDuration", change, dotnet_call())
    acked = rig.ask(v2.AckMessageResponse.FromString, "AckMessage", acking(changed.receipt_handle), dotnet_call())
    assert acked.entries[0].receipt_handle == "handle-1+"
    heartbeat = v2.HeartbeatRequest()
    heartbeat.client_type = v2.SIMPLE_CONSUMER
    heartbeat.group.name = GROUP
    assert rig.ask(v2.HeartbeatResponse.FromString, "Heartbeat", heartbeat, dotnet_call()).status.code == 20000


def test_csharp_after_a_restart() -> None:
    """C# never opens a second stream: everything works with a server that has never seen its settings."""
    rig = Rig()
    heartbeat = v2.HeartbeatRequest()
    heartbeat.client_type = v2.PUSH_CONSUMER
    heartbeat.group.name = GROUP
    assert rig.ask(v2.HeartbeatResponse.FromString, "Heartbeat", heartbeat, dotnet_call()).status.code == 20000
    rig.broker.messages = [delivered()]
    assert rig.receive(receiving(), dotnet_call())[0].status.code == 20000
    assert rig.ask(v2.AckMessageResponse.FromString, "AckMessage", acking("h"), dotnet_call()).status.code == 20000
    sent = rig.ask(v2.SendMessageResponse.FromString, "SendMessage", sending(a_message()), dotnet_call())
    assert sent.status.code == 20000
