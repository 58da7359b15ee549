"""Runs migrations on the URL given by server.migrate, one transaction each."""

from alembic import context

from kernel.database import connect
from server.tables import is_in_main_database, metadata

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
        else:
            # A table that is built anew must not take the rows that refer to it along; what the
            # migrations leave is checked below. Past SQLAlchemy: it has no effect in a transaction.
            connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
        context.configure(
            connection=connection,
            target_metadata=metadata,
            render_as_batch=sqlite,
            compare_type=True,
            include_object=is_in_main_database(engine.dialect.name),
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
            msg = "the migrations left a row that refers to nothing"
            raise RuntimeError(msg)
    engine.dispose()


run()
