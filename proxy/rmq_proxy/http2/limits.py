"""Every bound of the native transport in one place, with what is answered where it is met."""

import msgspec

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Limits(msgspec.Struct, frozen=True):
    """Sizes in bytes, times in seconds. "Calm" means GOAWAY with ENHANCE_YOUR_CALM: the connection ends, others live.

    Counts "a second" are those between two ticks of the transport; all but resets are forgotten with each answer.
    """

    # One connection's streams
    streams_max: int = 4096  # open at once; more are REFUSED_STREAM, which clients send again
    refused_max: int = 1000  # a second refused so; then calm
    stream_window_bytes: int = MIB  # unread bytes of one call; the window opens as they are read
    connection_window_bytes: int = 16 * MIB  # the same for all calls of a connection

    # Header blocks
    header_block_bytes_max: int = 32 * KIB  # compressed; more is calm
    header_list_bytes_max: int = 16 * KIB  # as RFC 7541 counts; a larger one ends its call with RESOURCE_EXHAUSTED
    header_list_bytes_calm: int = 256 * KIB  # beyond it is a bomb: calm
    header_table_bytes: int = 4096  # what the peer's encoder may make us keep
    continuations_max: int = 16  # frames that go on with one header block; more are calm
    headers_s: float = 10  # from the first to the last frame of one header block; longer is calm

    # Frames that make work and bring nothing
    resets_max: int = 2000  # calls that the client itself reset, a second; then calm
    settings_max: int = 100
    pings_max: int = 1000
    controls_max: int = 5000  # PRIORITY, WINDOW_UPDATE, unknown kinds
    empty_data_max: int = 100  # DATA without a byte that does not end its stream
    fragments_max: int = 10_000  # DATA under `fragment_bytes` that completes no message
    fragment_bytes: int = 64
    errors_max: int = 100  # a second: streams that the client's mistakes ended

    # Bytes held for a client
    request_bytes_held_max: int = 512 * MIB  # unfinished requests of all connections; more: RESOURCE_EXHAUSTED
    answer_bytes_held_max: int = 256 * MIB  # what one connection was answered and did not take; more is calm
    answer_bytes_total_max: int = GIB  # what all were; more is calm for those that hold most
    outlet_bytes_max: int = 16 * MIB  # of one connection's, for one stream of commands: it ends with RESOURCE_EXHAUSTED
    write_step_bytes: int = 256 * KIB  # handed to the socket at a time while it takes it
    stall_s: float = 60  # a client that holds its window shut for this long on what waits for it: calm

    # Turns of the loop
    frames_a_turn: int = 512  # read of one connection; the rest of what came waits, and its socket is not read
    ticks_a_turn: int = 200  # connections that are looked at together, once a second

    # Connections
    connections_max: int = 16_384  # more are closed at once
    connections_per_address_max: int = 10_000  # loopback and the sources of PROXY headers are not counted
    handshakes_max: int = 200  # TLS handshakes at once; more are closed
    first_byte_s: float = 10  # from accept, or PROXY header, to a protocol that is known; longer is closed
    handshake_s: float = 10
    idle_s: float = 120  # without a call; then GOAWAY and the end. A poll or a command stream is a call
    age_s: float = 0  # after it a connection is drained, so that clients spread anew; 0: never
    drain_s: float = 30  # for the calls of a connection that ends by idle or age
    linger_s: float = 10  # for a client to take the last of what was written; then its connection is cut
    request_line_bytes_max: int = 8 * KIB  # HTTP/1.1 request with its headers; more is 431
