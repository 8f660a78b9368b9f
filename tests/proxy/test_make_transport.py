"""Which transport the settings make, and what of them it heeds."""

import asyncio
import importlib.util
import time
from pathlib import Path

import pytest

from rmq.config import Config
from rmq.errors import ConfigError
from rmq_proxy.grpcio_transport import GrpcioTransport
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native_transport import NativeTransport
from rmq_proxy.scrape import Scrape
from rmq_proxy.transports import Transport, limits_of, make_transport
from tests.proxy.transports import LOG, RecordingGate


def made(config: Config) -> Transport:
    """The transport for these settings."""

    async def make() -> Transport:
        return make_transport(config, {}, RecordingGate(), LOG, Scrape(time.monotonic))

    return asyncio.run(make())


def test_choice(tmp_path: Path) -> None:
    """Native by default."""
    assert isinstance(made(Config(data=str(tmp_path))), NativeTransport)
    grpcio = made(Config(transport="grpcio"))
    assert isinstance(grpcio, GrpcioTransport)
    assert grpcio.fingerprint == ""


def test_defaults_are_the_same() -> None:
    """The settings' defaults are those of Limits."""
    assert limits_of(Config()) == Limits()


def test_certificate_in_the_data_directory(tmp_path: Path) -> None:
    """Made once; with flush: memory no file is written; disabled: none."""
    pytest.importorskip("cryptography")
    config = Config(data=str(tmp_path))
    first = made(config).fingerprint
    assert len(first) == 64
    assert made(config).fingerprint == first
    assert made(Config(data=str(tmp_path / "none"), flush="memory")).fingerprint not in ("", first)
    assert not (tmp_path / "none").exists()
    assert made(Config(tls_mode="disabled")).fingerprint == ""


@pytest.mark.parametrize(
    "config",
    [
        Config(tls_cert="only"),
        Config(tls_key="only"),
        Config(tls_clients="required"),
        Config(tls_client_ca="only"),
        Config(tls_cert="no such", tls_key="file"),
    ],
)
def test_refused(config: Config) -> None:
    """One line that says what belongs together."""
    with pytest.raises(ConfigError, match=r"tls_|cannot use the certificate"):
        made(config)


def test_own_certificate(tmp_path: Path) -> None:
    """By its files, with those who may come."""
    pytest.importorskip("cryptography")
    first = made(Config(data=str(tmp_path))).fingerprint
    cert, key = (str(tmp_path / "tls" / name) for name in ("tls-cert.pem", "tls-key.pem"))
    config = Config(tls_cert=cert, tls_key=key, tls_clients="required", tls_client_ca=cert)
    assert made(config).fingerprint == first


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No certificate can be made: plaintext goes on with a warning, what requires TLS does not start."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert made(Config(data=str(tmp_path))).fingerprint == ""
    assert "cryptography" in caplog.text
    with pytest.raises(ConfigError, match="cryptography"):
        made(Config(data=str(tmp_path), tls_mode="enforcing"))


def test_sources_of_proxy_headers(tmp_path: Path) -> None:
    """Addresses and networks, with commas and blanks."""
    config = Config(tls_mode="disabled", proxy_sources="192.0.2.1, 2001:db8::/32")
    one = made(config)
    assert isinstance(one, NativeTransport)
    hosts = ("192.0.2.1", "192.0.2.2", "2001:db8::5", "fe80::1%eth0")
    assert [one.trusts(host) for host in hosts] == [True, False, True, False]
