#!/bin/sh
# Makes new TLS certificates for the PostgreSQL of compose.yaml in docker/postgres/certs; arguments are passed on.
set -eu
cd "$(dirname -- "$0")/.."
if [ -x .venv/bin/agentauri ]; then exec .venv/bin/agentauri certs generate "$@"; fi
exec agentauri certs generate "$@"
