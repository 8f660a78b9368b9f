"""Mutated conversations: no exception leaves the protocol, what it keeps stays bounded, no turn takes long."""

import random
import time
from collections.abc import Sequence

from rmq_proxy.http2 import frames, hpack
from rmq_proxy.http2.connection import Connection
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.events import DataReceived, Event, RequestReceived
from rmq_proxy.http2.limits import Limits
from tests.proxy.http2.peer import HEADERS_BLOCK, REQUEST, START, TRAILERS_BLOCK, data, open_request, parse, request
from tests.timing import uncollected

TURN_S_MAX = 0.1
"""The goal on a machine that does nothing else; checked against CPU time."""
HELD_BYTES_MAX = 1 << 20
LIMITS = Limits(answer_bytes_held_max=HELD_BYTES_MAX, streams_max=50)


def conversation(chance: random.Random) -> bytes:
    """What an honest client might send."""
    pieces = [START]
    for number in range(1, chance.randrange(2, 12)):
        stream_id = 2 * chance.randrange(1, 1 + number) - 1
        pieces.append(
            chance.choice(
                (
                    request(2 * number + 1),
                    open_request(2 * number + 1) + data(2 * number + 1, chance.randbytes(20), frames.END_STREAM),
                    open_request(2 * number + 1, (*REQUEST, ("content-length", "20"))),
                    frames.frame(frames.HEADERS, 1, 2 * number + 1, hpack.encode(REQUEST)[:9])
                    + frames.frame(frames.CONTINUATION, 4, 2 * number + 1, hpack.encode(REQUEST)[9:]),
                    data(stream_id, chance.randbytes(chance.choice((0, 5, 20, 2000))), chance.randrange(2)),
                    frames.window_update(chance.choice((0, stream_id)), chance.choice((1, 100_000, 1 << 30))),
                    frames.settings({chance.randrange(8): chance.choice((0, 1, 100, 65_535, 1 << 20))}),
                    frames.ping(chance.randbytes(8), chance.randrange(2)),
                    frames.rst_stream(stream_id, ErrorCode.CANCEL),
                    frames.frame(frames.PRIORITY, 0, stream_id, chance.randbytes(5)),
                    frames.frame(chance.randrange(16), chance.randrange(256), stream_id, chance.randbytes(9)),
                )
            )
        )
    return b"".join(pieces)


def mutate(chance: random.Random, sent: bytes) -> bytes:
    """Bytes changed, dropped, doubled, put in."""
    octets = bytearray(sent)
    for _ in range(chance.choice((0, 1, 1, 2, 5, 20))):
        position = chance.randrange(len(octets))
        match chance.randrange(4):
            case 0:
                octets[position] = chance.randrange(256)
            case 1:
                del octets[position : position + chance.randrange(1, 12)]
            case 2:
                octets[position:position] = octets[position : position + chance.randrange(1, 40)]
            case _:
                octets[position:position] = chance.randbytes(chance.randrange(1, 12))
        if not octets:
            return b""
    return bytes(octets)


def serve(connection: Connection, events: Sequence[Event], chance: random.Random) -> None:
    """Answers some requests at once, some in pieces, some never."""
    for event in events:
        if not isinstance(event, (RequestReceived, DataReceived)) or not event.ended:
            continue
        match chance.randrange(4):
            case 0:
                connection.respond(event.stream, HEADERS_BLOCK)
                connection.send(event.stream, (bytes(chance.choice((0, 10, 100_000))),))
                connection.end(event.stream, TRAILERS_BLOCK)
            case 1:
                connection.end(event.stream, TRAILERS_BLOCK)


def play(seed: int) -> None:
    """One conversation; what is written back must be whole frames."""
    chance = random.Random(seed)
    connection, position = Connection(LIMITS), 0
    sent = mutate(chance, conversation(chance))
    while position < len(sent) and not connection.failed:
        size = chance.choice((1, 7, 100, 5000))
        with uncollected():
            started_s = time.process_time()
            serve(connection, connection.receive(sent[position : position + size]), chance)
            serve(connection, connection.advance(), chance)
            assert time.process_time() - started_s < TURN_S_MAX, f"seed {seed}: a turn took too long"
        parse(connection.take())
        position += size
    assert connection._out.held_bytes <= HELD_BYTES_MAX + 100_000
    connection.tick(0)
    connection.lost()
    assert not connection.streams
    assert connection._out.held_bytes == 0
