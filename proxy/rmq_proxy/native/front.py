"""One accepted socket: finds out what the client speaks, then carries bytes between it, TLS and the protocol.

All that is answered while bytes are being read leaves in one write; what is answered later in the same turn of the
loop (`wake`) leaves together at its end. What comes in is read in portions, so that one client's does not hold the
loop. A connection at rest costs nothing but memory: it is looked at once a second while something moves (`stir`), and
else when it may have been idle for too long.
"""

import asyncio
import ssl
from typing import Protocol, cast

from rmq_proxy.http2.connection import Connection
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.frames import goaway, settings
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native import http1, tls
from rmq_proxy.native.calls import Calls
from rmq_proxy.native.deadlines import Step
from rmq_proxy.native.site import Site
from rmq_proxy.native.sniff import Speech, read_proxy_header, sniff


class House(Protocol):
    """The transport, as its connections see it."""

    site: Site
    limits: Limits
    tls_required: bool
    stopping: bool

    def admit(self, front: "Front", host: str) -> bool:
        """Counts a new connection; False where there are too many."""

    def forget(self, front: "Front") -> None:
        """The connection is gone."""

    def trusts(self, host: str) -> bool:
        """Whether PROXY headers from there are believed."""

    def tls_context(self) -> ssl.SSLContext | None:
        """For a handshake that begins now; None where TLS is off or too many are under way."""

    def handshake_over(self, front: "Front") -> None:
        """It ended, well or not."""

    def due(self, front: "Front") -> None:
        """Asks for `flush` at the end of this turn of the loop."""

    def stir(self, front: "Front") -> None:
        """Asks for `tick` once a second, until it says that it is at rest."""

    def hold(self, front: "Front", held_bytes: int) -> None:
        """What the client was answered and has not taken by now."""


class Front(asyncio.Protocol):
    """Owns the socket. Times are the loop's."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._transport: asyncio.Transport
        self.host = ""  # the socket's own peer, which limits go by
        self._peer = ""
        self._tls: tls.Session | None = None
        self._handshaking = False
        self._connection: Connection | None = None
        self._calls: Calls | None = None
        self._http1 = False
        self._http1_asked = False  # its one request is whole, and the answer is being made
        self._proxied = False  # a PROXY header was read; there is but one
        self._early = b""  # what came before it was clear what it is
        self._accepted_s = 0.0
        self._stage_s = 0.0  # when the stage began that must not take long
        self._active_s = 0.0
        self._last_id = 0
        self._had_streams = False
        self._idle_step: Step | None = None  # when it may have been idle for too long
        self._drain_s: float | None = None
        self._closing_s: float | None = None
        self._reading = False
        self._behind = False  # the socket is not read: there is enough of what came already
        self._held_bytes = self._unsent_bytes = 0  # of answers, as the transport was told; those with the socket
        self.lively = False  # in the transport's row of those that tick
        self.scheduled = False  # in the transport's row of those to be flushed
        self._gone = False

    # ---- The loop's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refused at once where there are too many."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._accepted_s = self._stage_s = self._active_s = self._house.site.loop.time()
        self.host, self._peer = peer_of(transport.get_extra_info("peername"))
        if not self._house.admit(self, self.host):
            self._abort()
            return
        self._stir()
        step = self._house.limits.write_step_bytes
        transport.set_write_buffer_limits(high=2 * step, low=step)

    def data_received(self, data: bytes) -> None:
        """Through TLS, if that is there, to whatever is spoken."""
        if not self.lively:
            self._stir()
        if self._tls is not None:
            data = self._decrypt(data)
            if not data:
                return
        if self._connection is not None:
            self._carry(data)
        elif not (self._gone or self._http1_asked):
            self._find_out(data)

    def eof_received(self) -> bool:
        """The client sends no more, and gRPC clients then read no more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """All its calls are over."""
        self._gone = True
        self._end_handshake()
        if self._idle_step is not None:
            self._idle_step.discard(self)
        self._house.forget(self)
        if self._connection is not None and self._calls is not None:
            self._calls.handle(self._connection.lost())

    def pause_writing(self) -> None:
        """The client does not take what we write: bodies stay where they are."""
        if self._connection is not None:
            self._connection.writable = False
            self._tell_held()
            self._stir()

    def resume_writing(self) -> None:
        """It takes more."""
        if self._connection is not None:
            self._connection.writable = True
            self.flush()
            self._tell_held()

    # ---- Finding out ----

    def _find_out(self, data: bytes) -> None:
        data = self._early + data
        self._early = b""
        if self._http1:
            self._answer_http1(data)
            return
        match sniff(data):
            case Speech.UNDECIDED:
                self._early = data
            case Speech.HTTP2:
                self._begin_http2(data)
            case Speech.TLS if self._tls is None:
                self._begin_tls(data)
            case Speech.PROXY if self._may_be_proxied():
                self._read_origin(data)
            case Speech.HTTP1:
                self._http1 = True
                self._answer_http1(data)
            case _:
                self._send_away(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2, with TLS or without")

    def _may_be_proxied(self) -> bool:
        return self._tls is None and not self._proxied and self._house.trusts(self.host)

    def _begin_http2(self, data: bytes) -> None:
        if self._house.tls_required and self._tls is None:
            self._send_away(ErrorCode.INADEQUATE_SECURITY, "this port requires TLS")
            return
        house = self._house
        self._connection = connection = Connection(house.limits)
        self._calls = Calls(house.site, connection, self._peer, tls=self._tls is not None, wake=self._wake)
        if house.stopping:
            connection.refuse()
        self._carry(data)

    def _begin_tls(self, data: bytes) -> None:
        context = self._house.tls_context()
        if context is None:
            self._transport.write(tls.CLIENT_HELLO_REFUSED)
            self._close()
            return
        self._handshaking = True
        self._stage_s = self._house.site.loop.time()
        self._tls = tls.Session(context)
        self.data_received(data)

    def _read_origin(self, data: bytes) -> None:
        try:
            origin = read_proxy_header(data)
        except ValueError as error:
            self._house.site.log.warning("%s: %s", self._peer, error)
            self._abort()
            return
        if origin is None:
            self._early = data
            return
        self._proxied = True
        if origin.peer is not None:
            self._peer = origin.peer
        if len(data) > origin.header_bytes:
            self._find_out(data[origin.header_bytes :])

    def _answer_http1(self, data: bytes) -> None:
        answer = http1.answer(data, self._house.limits.request_line_bytes_max, self._house.site.pages, self._peer)
        if answer is None:
            self._early = data
        elif isinstance(answer, asyncio.Future):
            self._http1_asked = True
            answer.add_done_callback(self._send_http1)
        else:
            self._write(answer)
            self._close()

    def _send_http1(self, answer: "asyncio.Future[bytes]") -> None:
        if not self._gone:
            self._write(answer.result())
            self._close()

    def _send_away(self, code: ErrorCode, text: str) -> None:
        self._write(settings({}) + goaway(0, code, text))
        self._close()

    # ---- TLS ----

    def _decrypt(self, data: bytes) -> bytes:
        session = self._tls
        assert session is not None
        try:
            plain = session.receive(data)
        except ssl.SSLError as error:
            self._house.site.log.debug("%s: TLS: %s", self._peer, error)
            self._transport.write(session.outgoing())
            self._end_handshake()
            self._hang_up()
            return b""
        out = session.outgoing()
        if out:
            self._transport.write(out)
        if session.established:
            self._end_handshake()
        if session.closed and not plain:
            self._hang_up()
        return plain

    def _end_handshake(self) -> None:
        if self._handshaking:
            self._handshaking = False
            self._stage_s = self._house.site.loop.time()
            self._house.handshake_over(self)

    # ---- HTTP/2 ----

    def _carry(self, data: bytes) -> None:
        connection, calls = self._connection, self._calls
        assert connection is not None
        assert calls is not None
        self._reading = True
        calls.handle(connection.receive(data, self._house.limits.frames_a_turn))
        self._reading = False
        if connection.behind and not self._behind:
            self._behind = True
            self._transport.pause_reading()
            self._house.site.loop.call_soon(self._go_on)
        self.flush()

    def _go_on(self) -> None:
        """The next portion of what came; others had their turn."""
        if self._gone or self._transport.is_closing():
            return
        self._behind = False
        self._carry(b"")
        if not (self._behind or self._transport.is_closing()):
            self._transport.resume_reading()

    def _wake(self) -> None:
        if not (self._reading or self.scheduled):
            self.scheduled = True
            self._house.due(self)

    def flush(self) -> None:
        """Writes all that is ready, and what becomes ready by that, while the socket takes it."""
        self.scheduled = False
        connection, calls = self._connection, self._calls
        if connection is None or calls is None or self._gone:
            return
        while True:
            if connection.stirring:
                calls.handle(connection.advance())
            data = connection.take()
            if not data:
                break
            self._write(data)
        if not self.lively:
            self._stir()
        if connection.held_bytes + self._unsent_bytes != self._held_bytes:
            self._tell_held()
        if connection.finished:
            self._close()

    def _tell_held(self) -> None:
        """To the transport. What the socket has not sent is asked for here only, once a second and when it is much."""
        assert self._connection is not None
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._held_bytes = self._connection.held_bytes + self._unsent_bytes
        self._house.hold(self, self._held_bytes)

    def _write(self, data: bytes) -> None:
        if self._tls is not None:
            data = self._tls.send(data)
        self._transport.write(data)

    def _close(self) -> None:
        """After what is written."""
        if not self._transport.is_closing():
            if self._tls is not None:
                self._transport.write(self._tls.close())
            self._hang_up()

    def _hang_up(self) -> None:
        """The socket closes when what is written has gone, or was not taken for too long."""
        if self._closing_s is None:
            self._closing_s = self._house.site.loop.time()
            self._stir()
        self._transport.close()

    def _abort(self) -> None:
        self._transport.abort()

    # ---- The transport's side ----

    def _stir(self) -> None:
        if not (self.lively or self._gone):
            self.lively = True
            self._house.stir(self)

    def tick(self, now_s: float) -> bool:
        """Once a second while it is lively: what takes too long ends. False: it is at rest."""
        if self._gone:
            return False
        limits = self._house.limits
        if self._closing_s is not None:
            if now_s - self._closing_s > limits.linger_s:
                self._abort()
            return True
        if self._connection is None or self._calls is None:
            if now_s - self._stage_s > (limits.handshake_s if self._handshaking else limits.first_byte_s):
                self._house.site.endings["handshake" if self._handshaking else "first_byte"] += 1
                self._abort()
            return True
        self._calls.handle(self._connection.tick(now_s))
        self._watch_life(self._connection, now_s)
        self.flush()
        self._tell_held()
        return bool(self._held_bytes) or self._drain_s is not None or not self._connection.resting

    def _watch_life(self, connection: Connection, now_s: float) -> None:
        limits, streams = self._house.limits, connection.streams
        if streams or self._had_streams or streams.last_id != self._last_id:
            self._last_id = streams.last_id
            self._had_streams = bool(streams)
            self._active_s = now_s
        if self._drain_s is None:
            self._await_idle(limits)
            idle = limits.idle_s and now_s - self._active_s > limits.idle_s
            if idle or (limits.age_s and now_s - self._accepted_s > limits.age_s):
                self._drain_s = now_s
                self._house.site.endings["idle" if idle else "age"] += 1
                connection.drain()
        elif now_s - self._drain_s > 1.0:
            connection.refuse()
            if now_s - self._drain_s > limits.drain_s and self._calls is not None:
                self._calls.handle(connection.close(ErrorCode.NO_ERROR, "the connection was drained"))

    def _await_idle(self, limits: Limits) -> None:
        """One look for all its calls: when it comes too early, the next one is arranged then."""
        if self._idle_step is None:
            ends_s = [self._active_s + limits.idle_s] if limits.idle_s else []
            if limits.age_s:
                ends_s.append(self._accepted_s + limits.age_s)
            if ends_s:
                self._idle_step = self._house.site.deadlines.add(self, min(ends_s))

    def expire(self) -> None:
        """It may have been idle for too long, or be too old."""
        self._idle_step = None
        self._stir()

    def calm(self, text: str) -> bool:
        """GOAWAY, and the end of all its calls. False: it was closing already, and is cut."""
        if self._closing_s is not None or self._connection is None or self._calls is None:
            self._abort()
            return False
        self._calls.handle(self._connection.close(ErrorCode.ENHANCE_YOUR_CALM, text))
        self.flush()
        return True

    def drain(self) -> None:
        """The server stops: GOAWAY, streams of commands end, calls go on. What is no HTTP/2 is closed."""
        if self._connection is None or self._calls is None:
            self._abort()
            return
        self._connection.drain()
        self._calls.end_streams()
        self.flush()

    def refuse(self) -> None:
        """The last GOAWAY; the connection closes with its last call."""
        if self._connection is not None:
            self._connection.refuse()
            self.flush()

    def give_up(self) -> None:
        """Ends what still runs."""
        if self._calls is not None:
            self._calls.give_up()
        self.refuse()

    def abort(self) -> None:
        """Closes without waiting for anything."""
        self._abort()


def peer_of(address: object) -> tuple[str, str]:
    """Host, and "host:port" as Call has it; an IPv4 client of a socket for both families is one of IPv4."""
    if not isinstance(address, tuple) or len(address) < 2:
        return "", ""
    host, port = str(address[0]), address[1]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
