"""`agentauri` for a shell, without the seconds that its imports take: forked from a process that has done them.

`serve` is the program itself, since signals are sent to it.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLIENT = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] == ["serve"]:
    os.execv({program!r}, [{program!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(16)))
"""


@contextmanager
def warm_commands(folder: Path) -> Iterator[Path]:
    """A folder for PATH that has such an `agentauri`, made in `folder`."""
    address = str(folder / "commands.sock")
    program = str(Path(sys.executable).with_name("agentauri"))
    client = folder / "bin" / "agentauri"
    client.parent.mkdir()
    client.write_text(_CLIENT.format(python=sys.executable, program=program, address=address), encoding="utf-8")
    client.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, __file__, str(listening.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            yield client.parent
        finally:
            assert server.stdin is not None
            server.stdin.close()
            server.wait()


def _serve(listening: socket.socket) -> None:
    import agentauri.console  # imported late by the commands
    import agentauri.consult
    import agentauri.trigger_console  # noqa: F401
    from agentauri import faults
    from agentauri.cli import main
    from agentauri.embedded import die_with

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server_dies = die_with(os.getpid(), signal.SIGKILL)
    while sys.stdin not in (ready := select.select([listening, sys.stdin], [], [])[0]):
        assert ready
        connection, _ = listening.accept()
        if os.fork() == 0:
            if server_dies is not None:
                server_dies()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
            with connection.makefile("rb") as request:
                arguments, folder, environment = json.loads(request.read())
            command = os.fork()
            if command == 0:
                connection.close()
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                os.environ.clear()
                os.environ.update(environment)
                os.chdir(folder)
                importlib.reload(faults)
                code = 1
                try:
                    main(arguments, prog_name="agentauri")
                except SystemExit as ended:
                    code = ended.code if isinstance(ended.code, int) else 1
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])).encode())
            os._exit(0)
        connection.close()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
