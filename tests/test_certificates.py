"""Certificates for a PostgreSQL of one's own."""

import ssl
import stat
from pathlib import Path

from click.testing import CliRunner

from agentauri.certificates import expiry, generate
from agentauri.cli import main


def test_the_server_is_trusted_through_the_root_under_every_name(tmp_path: Path) -> None:
    root, server, key = generate(tmp_path, ["db.example", "127.0.0.1"])

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert expiry(root).days == expiry(server).days == 824
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(root))
    serving.load_cert_chain(server, key)
    for name in ("db.example", "127.0.0.1"):
        assert shaken_hands(serving, trusting, name)


def shaken_hands(serving: ssl.SSLContext, trusting: ssl.SSLContext, name: str) -> bool:
    """Let both ends talk in memory until the client trusts the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname=name)
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (client, server):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
    return done == {client, server}


def test_the_commands_make_and_check_them(tmp_path: Path) -> None:
    run = CliRunner().invoke
    missing = run(main, ["certs", "check", "--folder", str(tmp_path)])
    made = run(main, ["certs", "generate", "--folder", str(tmp_path), "--days", "10"])
    soon = run(main, ["certs", "check", "--folder", str(tmp_path)])

    assert (missing.exit_code, made.exit_code, soon.exit_code) == (1, 0, 1)
    assert "agentauri certs generate makes one" in missing.stderr
    assert "(9 days)" in soon.stdout
