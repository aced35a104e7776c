"""TLS to PostgreSQL 15, the oldest that must do: what connects, what is refused in whose words, and how a
running installation gets over it."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentauri import certificates
from agentauri.config import database_config
from agentauri.database import Database, DatabaseUnavailable
from agentauri.embedded import Embedded
from agentauri.migrations import migrate
from doctor.house import ROOT, House
from support.folders import passing_folder
from support.postgres_15 import debians, packaged
from support.processes import Nursery
from support.tls_postgres import ADDRESS, EITHER, WITH_CLIENT_CERTIFICATE, TlsPostgres

LONG_AGO = datetime.now(UTC) - timedelta(days=30)


@pytest.fixture(scope="module")
def server() -> Iterator[TlsPostgres]:
    """Debian's, else the one of the development tools; the binaries of the embedded one speak no TLS."""
    binaries = debians() or packaged()
    if binaries is None:
        pytest.skip("needs a PostgreSQL that speaks TLS; on Debian 12: apt-get install postgresql-15")
    with TlsPostgres.open(str(binaries)) as opened:
        yield opened


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates under which the server may show itself."""
    folder = tmp_path_factory.mktemp("good")
    certificates.generate(folder, [ADDRESS])
    return folder


async def encrypted(url: str) -> bool:
    async with Database.open(database_config(url, (20, 5))) as database, database.transaction() as tx:
        return bool(await tx.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))


async def bare_error(url: str) -> str:
    """What the driver says by itself."""
    with pytest.raises(Exception) as refused:
        await asyncpg.connect(url)
    return str(refused.value)


async def refused_as(url: str, log_lines: list[dict[str, object]]) -> str:
    """The words in which the product tells a refusal, which must be the driver's own, with the code and the remedy."""
    with pytest.raises(DatabaseUnavailable):
        await encrypted(url)
    (line,) = [line for line in log_lines if line["event"] == "database.unavailable"]
    assert line["code"] == "DATABASE_TLS_FAILED"
    assert line["message"] == await bare_error(url)
    assert "sslmode and sslrootcert in DATABASE_URL" in str(line["remedy"])
    assert "scripts/generate-pg-certs.sh" in str(line["remedy"])
    return str(line["message"])


async def test_a_server_that_shows_the_certificate_of_its_name_is_trusted_in_full(
    server: TlsPostgres, good: Path
) -> None:
    server.take(good)
    url = server.url("verify-full", good / "root.crt")

    assert await encrypted(url)
    assert await migrate(database_config(url, (20, 30)))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("disable", False), ("allow", False), ("prefer", True), ("require", True), ("verify-ca", True)],
)
async def test_each_sslmode_asks_for_as_much_as_it_says(
    server: TlsPostgres, good: Path, mode: str, expected: bool
) -> None:
    server.take(good, EITHER)

    assert await encrypted(server.url(mode, good / "root.crt" if mode == "verify-ca" else None)) is expected


async def test_a_root_that_did_not_sign_is_told_in_the_drivers_words(
    server: TlsPostgres, good: Path, tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    server.take(good)
    certificates.generate(tmp_path, [ADDRESS])

    words = await refused_as(server.url("verify-full", tmp_path / "root.crt"), log_lines)

    assert "certificate verify failed" in words


async def test_a_name_that_the_certificate_does_not_bear_is_told_in_the_drivers_words(
    server: TlsPostgres, tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    certificates.generate(tmp_path, ["db.example"])
    server.take(tmp_path)

    assert ADDRESS in await refused_as(server.url("verify-full", tmp_path / "root.crt"), log_lines)
    assert await encrypted(server.url("verify-ca", tmp_path / "root.crt"))


async def test_a_certificate_that_has_expired_is_told_in_the_drivers_words(
    server: TlsPostgres, tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    certificates.generate(tmp_path, [ADDRESS], 10, LONG_AGO)
    server.take(tmp_path)

    assert "certificate has expired" in await refused_as(server.url("verify-full", tmp_path / "root.crt"), log_lines)


async def test_a_server_that_takes_nothing_in_the_clear_is_told_in_its_words(
    server: TlsPostgres, good: Path, log_lines: list[dict[str, object]]
) -> None:
    server.take(good)

    words = await refused_as(server.url("disable"), log_lines)

    assert "no pg_hba.conf entry for host" in words
    assert "no encryption" in words


async def test_a_server_that_speaks_no_tls_is_told_in_the_drivers_words(
    server: TlsPostgres, log_lines: list[dict[str, object]]
) -> None:
    server.take(None, EITHER)

    assert "SSL" in await refused_as(server.url("require"), log_lines)


async def test_a_root_that_is_not_there_is_told_with_its_name(
    server: TlsPostgres, good: Path, tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    server.take(good)

    with pytest.raises(DatabaseUnavailable):
        await encrypted(server.url("verify-full", tmp_path / "gone.crt"))

    (line,) = [line for line in log_lines if line["event"] == "database.unavailable"]
    assert line["code"] == "DATABASE_TLS_FAILED"
    assert line["message"] == f"sslrootcert: certificate file {tmp_path / 'gone.crt'}: No such file or directory"


async def test_a_server_that_wants_a_certificate_of_ours_gets_it(
    server: TlsPostgres, good: Path, tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    for name in ("server.crt", "server.key"):
        shutil.copyfile(good / name, tmp_path / name)
    client = with_own_root(tmp_path)
    server.take(tmp_path, WITH_CLIENT_CERTIFICATE)

    assert await encrypted(server.url("verify-full", good / "root.crt", client=client))
    assert "certificate" in await refused_as(server.url("verify-full", good / "root.crt"), log_lines)


def with_own_root(folder: Path) -> tuple[Path, Path]:
    """A certificate for a client and its key, in `folder` with the root that signed it."""
    root_key, client_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clients")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agentauri")])
    now = datetime.now(UTC)

    def signed(subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> bytes:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(root_name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(minutes=5))
        builder = builder.not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (folder / "root.crt").write_bytes(signed(root_name, root_key.public_key(), ca=True))
    (folder / "client.crt").write_bytes(signed(name, client_key.public_key(), ca=False))
    (folder / "client.key").write_bytes(
        client_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "client.key").chmod(0o600)
    return folder / "client.crt", folder / "client.key"


# A running installation.

CERTIFICATES = Path("docker/postgres/certs")


@pytest.fixture(scope="module")
def standing_house(server: TlsPostgres, nursery: Nursery) -> Iterator[House]:
    """It trusts in full, and reads its root where the script puts it."""
    with passing_folder("agentauri-house-") as folder, Embedded(folder / "stores", postgres=False) as valkey:
        shutil.copytree(ROOT / "scripts", folder / "scripts")

        def start_again() -> None:
            server.take(folder / CERTIFICATES)
            server.restart()

        house = House(
            folder,
            nursery,
            server.socket_url,
            valkey,
            seen_as=server.url("verify-full", CERTIFICATES / "root.crt"),
            parts=("api-gateway",),
            restart_postgres=start_again,
        )
        yield house
        house.close()


@pytest.fixture
async def house(standing_house: House, server: TlsPostgres) -> House:
    certificates.generate(standing_house.folder / CERTIFICATES, [ADDRESS])
    server.take(standing_house.folder / CERTIFICATES)
    await migrate(database_config(server.socket_url, (20, 30)))
    await standing_house.stand()
    return standing_house


async def test_certificates_that_have_expired_are_made_anew(house: House, server: TlsPostgres) -> None:
    certificates.generate(house.folder / CERTIFICATES, [ADDRESS], 10, LONG_AGO)
    server.take(house.folder / CERTIFICATES)

    found = await house.doctor("database", "tls", "certificate")
    assert "DATABASE_TLS_FAILED" in found["database"].finding
    assert "ended on" in found["certificate:server"].finding
    assert "ended on" in found["certificate:root"].finding
    mended = await house.mend("tls")

    assert "certificate has expired" in mended.finding
    assert mended.fix == f"scripts/generate-pg-certs.sh --host {ADDRESS} && docker compose restart postgres"
    after = await house.doctor("database", "tls", "certificate")
    assert {one.result for one in after.values()} == {"ok"}
    assert (await house.typed(f"agentauri certs check --folder {CERTIFICATES}")).count("(824 days)") == 2


async def test_certificates_that_are_gone_are_made_anew(house: House) -> None:
    shutil.rmtree(house.folder / CERTIFICATES)

    found = await house.mend("certificate:root")

    assert "No such file" in found.finding
    assert (await house.doctor("tls"))["tls"].result == "ok"


async def test_an_sslmode_that_the_server_does_not_take_is_changed(house: House, server: TlsPostgres) -> None:
    await house.stand(DATABASE_URL=server.url("require"))
    env = house.folder / ".env"
    env.write_text(env.read_text().replace("sslmode=require", "sslmode=disable"))

    found = await house.mend("tls")

    assert "no pg_hba.conf entry for host" in found.finding
    assert "no encryption" in found.finding
    assert "sslmode=require" in env.read_text()


async def test_a_schema_that_is_not_there_is_made(house: House) -> None:
    await house.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    found = await house.mend("schema")

    assert found.finding.startswith("the schema is at nothing; this version needs ")
    assert found.fix == "agentauri migrate"


async def test_statements_that_nobody_ranks_are_ranked_after_a_restart(house: House) -> None:
    if (await house.doctor("statements"))["statements"].result == "ok":
        pytest.skip("this PostgreSQL comes without pg_stat_statements; on Debian 12: apt-get install postgresql-15")
    loading = (await house.doctor("statements"))["statements"]
    assert "not loaded" in loading.finding
    await house.typed(str(loading.fix))

    assert "not created" in (await house.mend("statements")).finding


async def test_requests_under_way_when_the_server_wants_tls_wait_as_for_an_outage(
    server: TlsPostgres, good: Path
) -> None:
    server.take(good, EITHER)
    async with Database.open(database_config(server.url("disable"), (20, 5))) as database:
        assert await database.answers()
        server.take(good)
        with pytest.raises(DatabaseUnavailable):
            async with database.transaction() as tx:
                await tx.run("SELECT pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(DatabaseUnavailable):
            async with database.transaction():
                raise AssertionError("let in")
        server.take(good, EITHER)
        await database.up()

        assert await database.answers()


def test_a_certificate_may_bear_an_address(good: Path) -> None:
    shown = x509.load_pem_x509_certificate((good / "server.crt").read_bytes())
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(ADDRESS)]
