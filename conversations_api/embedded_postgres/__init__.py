"""A PostgreSQL out of a wheel, for the demo, the tests and the benchmarks: `launcher` is the way in."""

from conversations_api.embedded_postgres.launcher import EmbeddedPostgres, remove
from conversations_api.embedded_postgres.postgres_files import EmbeddedPostgresError
from conversations_api.embedded_postgres.postgres_lock import DataFolderInUse
from conversations_api.embedded_postgres.running_postgres import NotRunning, Server, attach

__all__ = ["DataFolderInUse", "EmbeddedPostgres", "EmbeddedPostgresError", "NotRunning", "Server", "attach", "remove"]
