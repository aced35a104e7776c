"""The columns of agents and feedback that lists filter and sort by, and those that they show."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, Numeric, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import TSVECTOR

from agentauri.database import metadata

agents = Table(
    "agents",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("agent_id", Numeric(78, 0), primary_key=True),
    Column("owner", Text),
    Column("agent_wallet", Text),
    Column("agent_uri", Text),
    Column("registered_time", BigInteger),
    Column("registered_block", BigInteger),
    Column("updated_time", BigInteger),
    Column("updated_block", BigInteger),
    Column("feedback_count", BigInteger),
    Column("client_count", BigInteger),
    Column("validation_count", BigInteger),
    Column("last_feedback_time", BigInteger),
)

agent_words = Table(
    "agent_words",
    metadata,
    Column("chain_id", BigInteger),
    Column("agent_id", Numeric(78, 0)),
    Column("words", TSVECTOR),
)

agent_metadata = Table(
    "agent_metadata",
    metadata,
    Column("chain_id", BigInteger),
    Column("agent_id", Numeric(78, 0)),
    Column("key", Text),
    Column("value", LargeBinary),
    Column("value_text", Text),
)

feedback = Table(
    "feedback",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("agent_id", Numeric(78, 0), primary_key=True),
    Column("client_address", Text, primary_key=True),
    Column("feedback_index", Numeric(20, 0), primary_key=True),
    Column("value_raw", Numeric(78, 0)),
    Column("value_decimals", SmallInteger),
    Column("score", Numeric),
    Column("tag1", Text),
    Column("tag2", Text),
    Column("endpoint", Text),
    Column("file_uri", Text),
    Column("file_hash", Text),
    Column("revoked", Boolean),
    Column("block_number", BigInteger),
    Column("log_index", Integer),
    Column("block_time", BigInteger),
    Column("transaction_hash", Text),
    Column("event_seq", BigInteger),
    Column("incomplete", Boolean),
)

validations = Table(
    "validations",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("agent_id", Numeric(78, 0), primary_key=True),
    Column("request_hash", Text, primary_key=True),
    Column("validator_address", Text),
    Column("request_uri", Text),
    Column("requested_block", BigInteger),
    Column("requested_log", Integer),
    Column("requested_time", BigInteger),
    Column("response", Integer),
    Column("tag", Text),
)
