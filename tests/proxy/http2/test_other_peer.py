"""A conversation with another implementation of HTTP/2, which checks every frame of ours."""

import pytest

from rmq_proxy.http2 import grpc
from rmq_proxy.http2.connection import Connection
from rmq_proxy.http2.events import DataReceived, RequestReceived
from rmq_proxy.http2.limits import Limits

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/t.T/Echo"), (":authority", "localhost")]


@pytest.mark.parametrize("table_bytes", [4096, 0])
@pytest.mark.parametrize("size", [0, 1000, 300_000])
def test_calls(size: int, table_bytes: int) -> None:
    """Twenty calls, bodies echoed, windows kept open; the other side's header table may be of any size."""
    pytest.importorskip("h2")
    import h2.config
    import h2.connection
    import h2.events
    import h2.settings

    client = h2.connection.H2Connection(h2.config.H2Configuration())
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: table_bytes})
    server = Connection(Limits())
    received: dict[int, bytes] = {}
    requests: dict[int, bytes] = {}
    ended: set[int] = set()

    def exchange() -> None:
        for _ in range(200):
            there = client.data_to_send()
            for event in server.receive(there):
                if isinstance(event, RequestReceived):
                    assert event.fields[:4] == REQUEST
                    requests[event.stream.id] = b""
                elif isinstance(event, DataReceived):
                    requests[event.stream.id] += event.data
                    if event.ended:
                        echo(event)
            server.advance()
            back = server.take()
            for heard in client.receive_data(back):
                hear(heard)
            if not there and not back:
                return

    def echo(event: DataReceived) -> None:
        body, stream = requests[event.stream.id], event.stream
        if not server.answer(stream, len(body) + 5, grpc.answer_frames(stream.id, body)):
            server.respond(stream, grpc.HEADERS)
            server.send(stream, (grpc.prefix(len(body)), body))
            server.end(stream, grpc.OK_TRAILERS)

    def hear(event: object) -> None:
        if isinstance(event, h2.events.DataReceived):
            received[event.stream_id] = received.get(event.stream_id, b"") + event.data
            client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            assert dict(event.headers or ()) == {b"grpc-status": b"0"}
        elif isinstance(event, h2.events.StreamEnded):
            ended.add(event.stream_id)

    exchange()
    for number in range(20):
        stream_id = client.get_next_available_stream_id()
        client.send_headers(stream_id, [*REQUEST, ("x-number", str(number))])
        for start in range(0, size, 16_384):
            while client.local_flow_control_window(stream_id) < 16_384:
                exchange()
            client.send_data(stream_id, bytes(min(16_384, size - start)))
        client.end_stream(stream_id)
        exchange()
    assert {stream_id: len(body) - 5 for stream_id, body in received.items()} == dict.fromkeys(requests, size)
    assert ended == set(requests)
    assert len(ended) == 20
    assert not server.failed
