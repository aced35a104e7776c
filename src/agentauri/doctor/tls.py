"""TLS to PostgreSQL: is the session encrypted where that is asked for, and how long do the certificates last?"""

from __future__ import annotations

import asyncio
import shlex
import socket
import ssl
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509

from agentauri import certificates
from agentauri.database import is_tls_fault
from agentauri.doctor.check import Check, Finding, Patient, fail, ok, plural, warn

ANSWER_SECONDS = 5.0
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
ENCRYPTED_MODES = ("require", "verify-ca", "verify-full")


def refusal(patient: Patient, cause: BaseException) -> Finding | None:
    """What is to be said of an error of TLS, its own words unchanged; None of any other."""
    if not is_tls_fault(cause):
        return None
    return fail(f"DATABASE_TLS_FAILED: {cause}", _remedy(patient, str(cause)))


def _remedy(patient: Patient, words: str) -> str:
    if "no encryption" not in words and "requires a valid SSL connection" not in words:
        return _renew(patient)
    # The server wants TLS, and DATABASE_URL forbids it.
    file = "compose.yaml" if patient.in_compose else ".env"
    asked = f"sed -i.old '/DATABASE_URL/s/sslmode=[a-z-]*/sslmode=require/' {file}"
    return f"{asked} && {patient.take_up('').rstrip()}"


def _renew(patient: Patient) -> str:
    """New certificates where the old ones are looked for, under the name by which we call the server."""
    name = urlsplit(patient.database_settings.url.reveal()).hostname
    root = _parameters(patient).get("sslrootcert")
    words = ["scripts/generate-pg-certs.sh"]
    if root and Path(root).parent != certificates.FOLDER:
        words += ["--folder", str(Path(root).parent)]
    if name and name not in certificates.HOSTS:
        words += ["--host", name]
    return f"{shlex.join(words)} && docker compose restart postgres"


def _parameters(patient: Patient) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(patient.database_settings.url.reveal()).query))


async def _tls(patient: Patient) -> Sequence[Finding]:
    mode = _parameters(patient).get("sslmode", "prefer")
    try:
        async with asyncio.timeout(ANSWER_SECONDS), patient.database.outside() as connection:
            row = await connection.fetchrow("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    except Exception as error:  # noqa: BLE001 (what has nothing to do with TLS, the check before has told)
        found = refusal(patient, error.__cause__ or error)
        return [found] if found else []
    if row is not None and row["ssl"]:
        return [ok(f"sslmode={mode}: the session is encrypted ({row['version']})")]
    if mode in ENCRYPTED_MODES and urlsplit(patient.database_settings.url.reveal()).hostname:
        return [fail(f"sslmode={mode}, and the session is not encrypted", _renew(patient))]
    return [ok(f"sslmode={mode} does not ask for encryption, or the way is a socket")]


async def _certificate(patient: Patient) -> Sequence[Finding]:
    """The root file that DATABASE_URL names, and the certificate that the server shows."""
    parameters = _parameters(patient)
    found: list[Finding] = []
    if root := parameters.get("sslrootcert"):
        try:
            ends = certificates.expiry(Path(root)).at
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no certificate"
            found.append(fail(f"{root}: {reason}", _renew(patient), "root"))
        else:
            found.append(_days_left(ends, f"the root in {root}", _renew(patient), "root"))
    if parameters.get("sslmode") in ENCRYPTED_MODES:
        shown = await asyncio.to_thread(_shown_certificate, patient.database_settings.url.reveal())
        if shown is not None:
            found.append(_days_left(shown.not_valid_after_utc, "the server's certificate", _renew(patient), "server"))
    return found or [ok("DATABASE_URL asks for no certificate")]


def _days_left(ends: datetime, what: str, renew: str, part: str) -> Finding:
    days = (ends - datetime.now(UTC)).days
    text = f"{what} ends on {ends:%Y-%m-%d} ({plural(days, 'day')} left)"
    if ends <= datetime.now(UTC):
        return fail(f"{what} ended on {ends:%Y-%m-%d}", renew, part)
    return warn(text, renew, part) if days < certificates.WARN_DAYS else ok(text, part)


def _shown_certificate(url: str) -> x509.Certificate | None:
    """What the server shows, whether or not it is to be believed: asked as its protocol begins TLS."""
    parts = urlsplit(url)
    if not parts.hostname:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # we look at it, and trust it with nothing
    try:
        with socket.create_connection((parts.hostname, parts.port or 5432), ANSWER_SECONDS) as plain:
            plain.sendall(SSL_REQUEST)
            if plain.recv(1) != b"S":
                return None
            with context.wrap_socket(plain, server_hostname=parts.hostname) as secured:
                der = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    return x509.load_der_x509_certificate(der) if der else None


CHECKS = (
    Check(name="tls", why="Without TLS everybody on the way reads what is stored.", look=_tls),
    Check(name="certificate", why="The day it ends, every connection is refused.", look=_certificate),
)
