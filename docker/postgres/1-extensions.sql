-- Run once, when the database is made. The product works without it; it shows which statements cost what.
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
