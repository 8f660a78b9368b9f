"""Makes the transport that the settings ask for: the one place that knows both, and what a setting means to them."""

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from rmq.config import Config
from rmq.errors import ConfigError
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native.certificates import Certificates, self_signed
from rmq_proxy.native_transport import NativeTransport
from rmq_proxy.rpc import Gate, Table
from rmq_proxy.scrape import Scrape

if TYPE_CHECKING:
    from rmq_proxy.grpcio_transport import GrpcioTransport

Transport: TypeAlias = Union[NativeTransport, "GrpcioTransport"]
TLS_FOLDER = "tls"


def make_transport(config: Config, table: Table, gate: Gate, log: logging.Logger, scrape: Scrape) -> Transport:
    """Within the running loop. `scrape` has a page on the native one alone.

    Raises ConfigError for certificates that cannot be used.
    """
    if config.transport == "grpcio":
        from rmq_proxy.grpcio_transport import GrpcioTransport  # loading gRPC takes 100 ms

        return GrpcioTransport(table, gate, request_bytes_max=config.request_bytes_max, log=log)
    return NativeTransport(
        table,
        gate,
        request_bytes_max=config.request_bytes_max,
        log=log,
        limits=limits_of(config),
        tls_mode=config.tls_mode,
        certificates=_certificates(config, log),
        proxies=[source.strip() for source in config.proxy_sources.split(",") if source],
        scrape=scrape,
        metrics_for_all=config.metrics_for_all,
    )


def limits_of(config: Config) -> Limits:
    """The bounds that an operator may move; the others are in Limits."""
    return Limits(
        streams_max=config.streams_max,
        header_list_bytes_max=config.headers_bytes_max,
        header_block_bytes_max=2 * config.headers_bytes_max,
        header_list_bytes_calm=16 * config.headers_bytes_max,
        request_bytes_held_max=config.requests_held_bytes_max,
        answer_bytes_held_max=config.answers_held_bytes_max,
        answer_bytes_total_max=config.answers_held_total_bytes_max,
        connections_max=config.connections_max,
        connections_per_address_max=config.connections_per_address_max,
        handshakes_max=config.handshakes_max,
        first_byte_s=config.first_byte_ms / 1000,
        handshake_s=config.first_byte_ms / 1000,
        idle_s=config.connection_idle_ms / 1000,
        age_s=config.connection_age_ms / 1000,
        stall_s=config.stall_ms / 1000,
    )


def _certificates(config: Config, log: logging.Logger) -> Certificates | None:
    if config.tls_mode == "disabled":
        return None
    if bool(config.tls_cert) != bool(config.tls_key):
        raise ConfigError("tls_cert and tls_key belong together; give both or none")
    if bool(config.tls_client_ca) != (config.tls_clients != "off"):
        raise ConfigError("tls_clients and tls_client_ca belong together; give both or none")
    client_ca = Path(config.tls_client_ca) if config.tls_client_ca else None
    if config.tls_cert:
        return Certificates(
            Path(config.tls_cert), Path(config.tls_key), client_ca=client_ca, clients=config.tls_clients
        )
    folder = None if config.flush == "memory" else Path(config.data, TLS_FOLDER)
    if not (folder and (folder / "tls-key.pem").exists()) and importlib.util.find_spec("cryptography") is None:
        text = "no TLS: cryptography, the package that makes certificates, is missing; install it or give tls_cert"
        if config.tls_mode == "enforcing":
            raise ConfigError(text)
        log.warning(text)
        return None
    return self_signed(folder, client_ca=client_ca, clients=config.tls_clients)
