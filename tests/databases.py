"""A PostgreSQL database that one test after the other finds as the migrations left it.

To make and drop a database costs half a second and two checkpoints of the whole server; to empty
one costs milliseconds. What a test did to the schema is seen by a fingerprint; then the database is
made anew, so that no test can leave anything to the next.
"""

import uuid

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import make_url

# Everything but the schema of the tests' own tables, which come and go (days of clicks).
_SCHEMA = """
SELECT md5(string_agg(fact, '|' ORDER BY fact)) FROM (
    SELECT format('%s %s %s', relname, relkind, reloptions) AS fact
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT format('%s.%s %s %s', attrelid::regclass, attname, atttypid, attnotnull)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND attnum > 0
    UNION ALL
    SELECT format('%s %s %s', tgrelid::regclass, tgname, tgenabled)
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT format('%s %s', proname, md5(prosrc))
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT format('%s %s', nspname, nspacl) FROM pg_namespace
    WHERE nspname NOT LIKE 'pg\\_%%'
) AS facts
"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_SEQUENCES = (
    "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false) "
    "FROM pg_sequences WHERE last_value IS NOT NULL"
)


class PostgresDatabase:
    """One database for the tests of a process; `url` is where it is now.

    `server_url` names the server, `template` a migrated database on it.
    """

    def __init__(self, server_url: str, template: str) -> None:
        self._server_url = server_url
        self._template = template
        self._name = ""
        self._schema = ""
        self._kept: frozenset[str] = frozenset()

    @property
    def url(self) -> str:
        """Where the database is; made when it is asked for first."""
        if not self._name:
            self._make()
        return (
            make_url(self._server_url)
            .set(database=self._name)
            .render_as_string(hide_password=False)
        )

    def reset(self) -> None:
        """Leave the database as the migrations did: emptied, or made anew where that is not it."""
        if self._name and not self._emptied():
            self.drop()

    def drop(self) -> None:
        """Let the database go, with whoever is still connected."""
        if self._name:
            administer(self._server_url, f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")
            self._name = ""

    def _make(self) -> None:
        name = f"tallystick_test_{uuid.uuid4().hex[:12]}"
        administer(self._server_url, f"CREATE DATABASE {name} TEMPLATE {self._template}")
        self._name = name
        with self._connect() as connection:
            self._schema = _schema(connection)
            self._kept = frozenset(_tables(connection))

    def _connect(self) -> "psycopg.Connection[tuple[str, ...]]":
        url = make_url(self.url).set(drivername="postgresql")
        return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)

    def _emptied(self) -> bool:
        try:
            with self._connect() as connection:
                connection.execute(_OTHERS)
                # A test may have had its reasons to protect or hide things; the next has others.
                connection.execute("SET session_replication_role = replica")
                found = _tables(connection)
                for table in found - self._kept:
                    drop = sql.SQL("DROP TABLE IF EXISTS {} CASCADE")
                    connection.execute(drop.format(sql.Identifier(table)))
                with connection.transaction():
                    for table in _filled(connection, found & self._kept):
                        delete = sql.SQL("DELETE FROM {}")
                        connection.execute(delete.format(sql.Identifier(table)))
                    connection.execute(_SEQUENCES)
                return _schema(connection) == self._schema
        except psycopg.Error:
            return False


def administer(server_url: str, statement: str) -> None:
    """Run one statement outside a transaction."""
    url = make_url(server_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(
        url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3}
    )
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def _schema(connection: "psycopg.Connection[tuple[str, ...]]") -> str:
    row = connection.execute(_SCHEMA.replace("%%", "%")).fetchone()
    assert row is not None
    return row[0]


def _tables(connection: "psycopg.Connection[tuple[str, ...]]") -> set[str]:
    return {row[0] for row in connection.execute(_TABLES)} - {"alembic_version"}


def _filled(connection: "psycopg.Connection[tuple[str, ...]]", tables: set[str]) -> list[str]:
    if not tables:
        return []
    one = sql.SQL("SELECT {} WHERE EXISTS (SELECT 1 FROM {})")
    parts = [one.format(sql.Literal(table), sql.Identifier(table)) for table in sorted(tables)]
    return [row[0] for row in connection.execute(sql.SQL(" UNION ALL ").join(parts))]
