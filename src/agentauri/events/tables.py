"""The columns of `events` that lists filter and sort by."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Integer, Numeric, Table, Text

from agentauri.database import metadata

events = Table(
    "events",
    metadata,
    Column("seq", BigInteger, primary_key=True),
    Column("id", Text),
    Column("chain_id", BigInteger),
    Column("block_number", BigInteger),
    Column("transaction_hash", Text),
    Column("log_index", Integer),
    Column("registry", Text),
    Column("event_type", Text),
    Column("timestamp", BigInteger),
    Column("agent_id", Numeric(78, 0)),
    Column("owner", Text),
    Column("token_uri", Text),
    Column("client_address", Text),
    Column("tag1", Text),
    Column("tag2", Text),
    Column("tag", Text),
    Column("endpoint", Text),
    Column("file_uri", Text),
    Column("response_uri", Text),
    Column("validator_address", Text),
    Column("request_uri", Text),
    Column("retracted_at", DateTime(timezone=True)),
)
