"""Runs migrations on the URL given by server.migrate, one transaction each."""

from alembic import context

from kernel.database import connect
from server.tables import metadata

_STATEMENT_TIMEOUT = "SET statement_timeout = '15min'"
# Two nodes that start at once must not migrate at once.
_ADVISORY_LOCK = 7_401_001


def run() -> None:
    engine = connect(context.config.attributes["url"])
    with engine.connect() as connection:
        sqlite = engine.dialect.name == "sqlite"
        if not sqlite:
            connection.exec_driver_sql(_STATEMENT_TIMEOUT)
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})")
            connection.commit()
        context.configure(
            connection=connection,
            target_metadata=metadata,
            render_as_batch=sqlite,
            compare_type=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
