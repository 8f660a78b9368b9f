"""The certificate of the port: the operator's own files, or one that we make and sign ourselves at first start.

Promises: a key that we make is readable by its owner only; files that change are read again within a minute, and a
pair that does not fit is logged while the old one goes on serving.
"""

import contextlib
import hashlib
import logging
import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from rmq.errors import ConfigError

ClientCertificates: TypeAlias = Literal["off", "optional", "required"]

CHECK_INTERVAL_S = 30.0
VALID_DAYS = 3650
ALPN = ["h2", "http/1.1"]
_VERIFY = {"off": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

log = logging.getLogger(__name__)


class Certificates:
    """Holds the context for new connections; `fingerprint` is the certificate's SHA-256 in hex."""

    def __init__(
        self,
        cert: Path,
        key: Path,
        *,
        client_ca: Path | None = None,
        clients: ClientCertificates = "off",
        watched: bool = True,
    ) -> None:
        """Raises ConfigError where a file cannot be read or the pair does not fit."""
        self._paths = [cert, key] + ([client_ca] if client_ca else [])
        self._clients: ClientCertificates = clients
        self._client_ca = client_ca
        self._watched = watched
        self._stamps: list[tuple[int, int]] = []
        self._checked_s = 0.0
        self.fingerprint = ""
        try:
            self.context = self._load()
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigError(f"cannot use the certificate {cert} with the key {key}: {error}") from None

    def refresh(self, now_s: float) -> None:
        """Reads the files again if they changed; looks at them every CHECK_INTERVAL_S."""
        if not self._watched or now_s - self._checked_s < CHECK_INTERVAL_S:
            return
        self._checked_s = now_s
        try:
            if self._stamp() != self._stamps:
                self.context = self._load()
                log.info("the TLS certificate was read again: SHA-256 %s", self.fingerprint)
        except (OSError, ssl.SSLError, ValueError) as error:
            log.error("the TLS certificate %s was not read again: %s", self._paths[0], error)

    def _stamp(self) -> list[tuple[int, int]]:
        return [(status.st_mtime_ns, status.st_ino) for status in map(os.stat, self._paths)]

    def _load(self) -> ssl.SSLContext:
        stamps = self._stamp()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # or one connection may ask for handshakes without end
        context.set_alpn_protocols(ALPN)
        context.num_tickets = 1
        context.load_cert_chain(self._paths[0], self._paths[1])
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
        context.verify_mode = _VERIFY[self._clients]
        pem = self._paths[0].read_text()
        first = pem[pem.index("-----BEGIN CERTIFICATE") :].partition("-----END CERTIFICATE-----")
        self.fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(first[0] + first[1] + "\n")).hexdigest()
        self._stamps = stamps
        return context


def self_signed(
    folder: Path | None, *, client_ca: Path | None = None, clients: ClientCertificates = "off"
) -> Certificates:
    """The certificate in `folder`, made there if there is none; without a folder one that only this process knows.

    Raises ConfigError.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="rmq-tls-") as short_lived:
            cert, key = _made_in(Path(short_lived))
            return Certificates(cert, key, client_ca=client_ca, clients=clients, watched=False)
    cert, key = _made_in(folder)
    return Certificates(cert, key, client_ca=client_ca, clients=clients)


def _made_in(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "tls-cert.pem", folder / "tls-key.pem"
    if not (cert.exists() and key.exists()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            key_pem, cert_pem = _make()
            _write(key, key_pem, 0o600)
            _write(cert, cert_pem, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot write the TLS certificate to {folder}: {error.strerror}") from None
    return cert, key


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by more than `mode` allows."""
    partial = path.with_name(path.name + ".tmp")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _make() -> tuple[bytes, bytes]:
    """Key and certificate as PEM: ECDSA on P-256, for localhost and the loopbacks."""
    import ipaddress

    from cryptography import x509  # costs 60 ms: only the first start needs it
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rmq self-signed")])
    names = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM)
