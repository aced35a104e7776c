"""The embedded Valkey: append-only file, no port, a generated password."""

from __future__ import annotations

import secrets
import signal
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from agentauri.embedded.process import Server


class Valkey(Server):
    name = "valkey"
    stop_signal = signal.SIGTERM

    @property
    def _socket(self) -> Path:
        return self._run / "valkey.sock"

    @staticmethod
    def url_in(run: Path, data: Path) -> str:
        password = (data / "password").read_text().strip()
        return f"unix://:{password}@{quote(str(run / 'valkey.sock'))}?db=0"

    def _prepare(self) -> None:
        password_file = self._data / "password"
        if not password_file.exists():
            self._owner.file(password_file, secrets.token_hex(32) + "\n")
        quoted = {key: f'"{value}"' for key, value in (("dir", self._data), ("socket", self._socket))}
        self._owner.file(
            self._data / "valkey.conf",
            "port 0\n"
            f"unixsocket {quoted['socket']}\n"
            "unixsocketperm 700\n"
            f"requirepass {password_file.read_text().strip()}\n"
            f"dir {quoted['dir']}\n"
            f'pidfile "{self._data}/valkey.pid"\n'
            "appendonly yes\n"
            'save ""\n'
            "maxmemory-policy noeviction\n",
        )
        self._socket.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        return [str(self._binaries / "valkey-server"), str(self._data / "valkey.conf")]

    def _answers(self) -> bool:
        password = (self._data / "password").read_text().strip()
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.settimeout(1.0)
            client.connect(str(self._socket))
            client.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2 and (part := client.recv(128)):
                answer += part
            return b"PONG" in answer  # an error while it still loads its data
        return False

    def _pid_on_file(self) -> int | None:
        try:
            text = (self._data / "valkey.pid").read_text().strip()
        except FileNotFoundError:
            return None
        return int(text) if text.isdigit() else None
