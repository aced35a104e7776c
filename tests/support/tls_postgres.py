"""A PostgreSQL that speaks TLS on an address of its own, with whatever certificates a test gives it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

from agentauri.embedded import DATABASE, Embedded
from support.folders import passing_folder

ADDRESS = f"127.{os.getpid() % 250 + 1}.8.5"  # a loopback of its own: port 5432 of 127.0.0.1 may be taken
TLS_ONLY = "hostssl all all 127.0.0.0/8 trust\n"
EITHER = "host all all 127.0.0.0/8 trust\n"
WITH_CLIENT_CERTIFICATE = "hostssl all all 127.0.0.0/8 cert map=anybody\n"


class TlsPostgres:
    """`socket_url` is the way that needs no TLS."""

    def __init__(self, folder: Path, embedded: Embedded) -> None:
        assert embedded.database_url is not None
        self._data = folder / "postgres"
        self._embedded = embedded
        self.socket_url = embedded.database_url
        self._first_rules = (self._data / "pg_hba.conf").read_text()
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write("include_if_exists 'tls.conf'\n")
        with (self._data / "pg_ident.conf").open("a") as names:
            names.write("anybody /^ postgres\n")

    @classmethod
    @contextmanager
    def open(cls, binaries: str) -> Iterator[Self]:
        """With TLS off, until it is given certificates."""
        settings = {"listen_addresses": ADDRESS, "fsync": "off", "shared_buffers": "16MB"}
        with (
            passing_folder("agentauri-tls-") as folder,
            Embedded(folder, valkey=False, postgres_bin=binaries, postgres_settings=settings) as embedded,
        ):
            yield cls(folder, embedded)

    def url(self, mode: str, root: Path | None = None, *, client: tuple[Path, Path] | None = None) -> str:
        parameters = {"sslmode": mode}
        if root is not None:
            parameters["sslrootcert"] = str(root)
        if client is not None:
            parameters |= {"sslcert": str(client[0]), "sslkey": str(client[1])}
        query = "&".join(f"{name}={quote(value, safe='/.')}" for name, value in parameters.items())
        return f"postgresql://postgres@{ADDRESS}:5432/{DATABASE}?{query}"

    def take(self, certificates: Path | None, rules: str = TLS_ONLY) -> None:
        """Show these certificates (root.crt is also the one for clients) from the next connection on, to whom `rules`
        let in; None: speak no TLS."""
        owner = self._data.stat()
        lines = ["ssl = off\n"]
        if certificates is not None:
            for name in ("server.crt", "server.key", "root.crt"):
                copy = self._data / name
                shutil.copyfile(certificates / name, copy)
                copy.chmod(0o600)
                if pwd.getpwuid(os.geteuid()).pw_uid != owner.st_uid:
                    os.chown(copy, owner.st_uid, owner.st_gid)
            lines = ["ssl = on\n", "ssl_ca_file = 'root.crt'\n"]
        (self._data / "tls.conf").write_text("".join(lines))
        (self._data / "pg_hba.conf").write_text(self._first_rules + rules)
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGHUP)

    def restart(self) -> None:
        (server,) = self._embedded._servers
        server.stop()
        server.start()
