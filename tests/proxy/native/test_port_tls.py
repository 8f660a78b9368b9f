"""TLS and plaintext on one port: modes, client certificates, the files. Under uvloop, as in use."""

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
import pytest

from rmq.errors import ConfigError
from rmq_proxy.http2 import frames
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native import certificates
from rmq_proxy.native.certificates import Certificates, self_signed
from tests.proxy.native.portrig import METRICS, Scenario, answered, port
from tests.proxy.transports import ECHO
from tests.scraping import told


def test_both_on_one_port(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """A call tells whether it came over TLS."""

    async def scenario() -> None:
        async with port(certificates=pair) as one:
            assert await one.echo() == b"hello"
            assert await one.echo_over_tls(pair) == b"hello"
            assert [call.tls for call in one.gate.calls] == [False, True]
            assert one.gate.calls[1].authority == f"localhost:{one.port}"

    run(scenario())


def test_big_messages_over_tls(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """Many records both ways."""

    async def scenario() -> None:
        body = os.urandom(1_000_000)
        async with port(certificates=pair) as one:
            trusted = grpc.ssl_channel_credentials(pair._paths[0].read_bytes())
            async with grpc.aio.secure_channel(f"localhost:{one.port}", trusted) as channel:
                assert await cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(ECHO.path))(body) == body

    run(scenario())


def test_enforcing(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """Without TLS there is no call, and the GOAWAY says why."""

    async def scenario() -> None:
        async with port(certificates=pair, tls_mode="enforcing") as one:
            assert await one.echo_over_tls(pair) == b"hello"
            (goaway,) = answered(await one.send(frames.PREFACE + frames.settings({})))
            assert goaway.payload[4:8] == ErrorCode.INADEQUATE_SECURITY.to_bytes(4)
            assert b"requires TLS" in goaway.payload

    run(scenario())


@pytest.mark.parametrize("options", [{}, {"tls_mode": "disabled"}])
def test_without_tls(run: Callable[[Scenario], None], options: dict[str, str]) -> None:
    """A client that speaks TLS gets an alert, not silence."""

    async def scenario() -> None:
        async with port(**options) as one:
            assert (await one.send(b"\x16\x03\x01\x02\x00"))[:1] == b"\x15"

    run(scenario())


def test_too_many_handshakes(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """One more gets an alert."""

    async def scenario() -> None:
        async with port(certificates=pair, limits=Limits(handshakes_max=1)) as one:
            _, first = await asyncio.open_connection("127.0.0.1", one.port)
            first.write(b"\x16\x03\x01\x00\x05")  # and no more
            assert b"rmq_tls_handshakes 1\n" in await one.send(METRICS)
            assert (await one.send(b"\x16\x03\x01\x00\x05"))[:1] == b"\x15"
            assert "rmq_tls_handshakes_turned_away_total 1\n" in told(one.transport.source)
            first.close()

    run(scenario())


def test_garbage_for_a_handshake(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """It ends that connection, and is no longer counted."""

    async def scenario() -> None:
        async with port(certificates=pair) as one:
            await one.send(b"\x16\x03\x01\x00\x05" + b"garbage")
            assert b"rmq_tls_handshakes 0\n" in await one.send(METRICS)
            assert await one.echo_over_tls(pair) == b"hello"

    run(scenario())


def test_client_certificates(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """Required: who has none is refused."""

    async def scenario() -> None:
        cert, key = pair._paths[:2]
        strict = Certificates(cert, key, client_ca=cert, clients="required")
        async with port(certificates=strict) as one:
            with pytest.raises(grpc.aio.AioRpcError):
                await one.echo_over_tls(pair)
            known = grpc.ssl_channel_credentials(cert.read_bytes(), key.read_bytes(), cert.read_bytes())
            async with grpc.aio.secure_channel(f"localhost:{one.port}", known) as channel:
                method = cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(ECHO.path))
                assert await method(b"hello") == b"hello"

    run(scenario())


def test_alpn(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """Go's gRPC insists on h2."""

    async def scenario() -> None:
        context = ssl.create_default_context(cafile=str(pair._paths[0]))
        context.set_alpn_protocols(["h2"])
        async with port(certificates=pair) as one:
            _, writer = await asyncio.open_connection("localhost", one.port, ssl=context, family=socket.AF_INET)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            writer.close()

    run(scenario())


def test_self_signed_files(tmp_path: Path) -> None:
    """Made once, the key for its owner's eyes only; the next start finds them."""
    pytest.importorskip("cryptography")
    first = self_signed(tmp_path / "tls")
    assert stat.S_IMODE((tmp_path / "tls" / "tls-key.pem").stat().st_mode) == 0o600
    assert self_signed(tmp_path / "tls").fingerprint == first.fingerprint
    assert self_signed(None).fingerprint != first.fingerprint
    assert len(first.fingerprint) == 64


def test_reload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files that change are read again; a pair that does not fit leaves the old one in place."""
    pytest.importorskip("cryptography")
    one, other = self_signed(tmp_path / "one"), self_signed(tmp_path / "other")
    before = one.fingerprint
    one.refresh(100)
    (tmp_path / "other" / "tls-cert.pem").replace(tmp_path / "one" / "tls-cert.pem")
    one.refresh(101)
    assert one.fingerprint == before
    one.refresh(101 + certificates.CHECK_INTERVAL_S)
    assert one.fingerprint == before
    assert "not read again" in caplog.text
    (tmp_path / "other" / "tls-key.pem").replace(tmp_path / "one" / "tls-key.pem")
    one.refresh(200)
    assert one.fingerprint == other.fingerprint


def test_bad_files(tmp_path: Path) -> None:
    """One line that names them."""
    with pytest.raises(ConfigError, match="cannot use the certificate"):
        Certificates(tmp_path / "cert", tmp_path / "key")
