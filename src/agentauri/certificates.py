"""Certificates for a PostgreSQL of one's own: a private root and a server certificate signed by it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

FOLDER = Path("docker/postgres/certs")
HOSTS = ("localhost", "postgres", "127.0.0.1")
DAYS = 825
WARN_DAYS = 14


class Expiry(Struct, frozen=True):
    """When a certificate ends; `days` is rounded down and negative once it has."""

    path: Path
    at: datetime
    days: int


def generate(folder: Path, hosts: Sequence[str], days: int = DAYS, since: datetime | None = None) -> list[Path]:
    """Write root.crt, server.crt and server.key (0600) for `hosts`, valid for so many days since now; what was there is
    replaced.

    The root's own key is thrown away: a new certificate gets a new root.
    """
    now = since or datetime.now(UTC)
    root_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "AgentAuri PostgreSQL root")])
    root = (
        _certificate(root_name, root_name, root_key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    server = (
        _certificate(name, root_name, server_key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    private = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return [
        _write(folder / "root.crt", root.public_bytes(serialization.Encoding.PEM), 0o644),
        _write(folder / "server.crt", server.public_bytes(serialization.Encoding.PEM), 0o644),
        _write(folder / "server.key", private, 0o600),
    ]


def expiry(path: Path) -> Expiry:
    """When the certificate in `path` ends. Raises: OSError, ValueError where there is none."""
    at = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    return Expiry(path, at, (at - datetime.now(UTC)).days)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, content: bytes, mode: int) -> Path:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    path.chmod(mode)
    return path
