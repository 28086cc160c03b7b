"""The tables, as numbered migrations, and the only way to open the database file.

A migration is never edited once released: a change is a new one at the end. `PRAGMA user_version` is the number of those
applied, `_migrations` says which release applied each. A file from a newer release is refused by that release's name.
Names are unique among the living: partial indexes, and `callables`, the one register of living names of an account.
Jobs have no foreign keys: the queue is a port of its own, and may one day live elsewhere.
"""

from __future__ import annotations

import sqlite3
import time

import sqlite_utils

from pyfaas import __version__
from pyfaas.adapters.sqlite.connection import Database, connect, translate
from pyfaas.errors import Code, PyfaasError

_ENTITIES = (
    """CREATE TABLE accounts (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, network INTEGER NOT NULL, created REAL NOT NULL, removed REAL
    ) STRICT""",
    "CREATE UNIQUE INDEX accounts_name ON accounts (name) WHERE removed IS NULL",
    """CREATE TABLE tokens (
        id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts (id), digest BLOB NOT NULL UNIQUE,
        scopes TEXT NOT NULL, label TEXT NOT NULL, created REAL NOT NULL, expires REAL, revoked REAL
    ) STRICT""",
    "CREATE INDEX tokens_account ON tokens (account)",
    """CREATE TABLE functions (
        id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts (id), name TEXT NOT NULL,
        settings TEXT NOT NULL, created REAL NOT NULL, removed REAL
    ) STRICT""",
    "CREATE INDEX functions_account ON functions (account)",
    """CREATE TABLE callables (
        account TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, UNIQUE (account, name)
    ) STRICT""",
    """CREATE TABLE revisions (
        function TEXT NOT NULL REFERENCES functions (id), code_id TEXT NOT NULL, bundle TEXT NOT NULL,
        size_bytes INTEGER NOT NULL, revision TEXT NOT NULL, PRIMARY KEY (function, code_id)
    ) STRICT""",
    """CREATE TABLE versions (
        function TEXT NOT NULL, number INTEGER NOT NULL, code_id TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
        created REAL NOT NULL, withdrawn INTEGER NOT NULL, handler TEXT, shape TEXT, generator INTEGER NOT NULL,
        environment TEXT, deleted INTEGER NOT NULL, PRIMARY KEY (function, number),
        FOREIGN KEY (function, code_id) REFERENCES revisions (function, code_id)
    ) STRICT""",
    """CREATE TABLE pointer_moves (
        function TEXT NOT NULL, pointer TEXT NOT NULL, seq INTEGER NOT NULL, version INTEGER NOT NULL, at REAL NOT NULL,
        weights TEXT NOT NULL, removed INTEGER NOT NULL DEFAULT 0,
        FOREIGN KEY (function, version) REFERENCES versions (function, number)
    ) STRICT""",
    "CREATE UNIQUE INDEX pointer_moves_seq ON pointer_moves (function, pointer, seq) WHERE removed = 0",
)
_JOBS = (
    """CREATE TABLE jobs (
        id TEXT PRIMARY KEY, account TEXT NOT NULL, function TEXT NOT NULL, name TEXT NOT NULL, qualifier TEXT,
        event BLOB NOT NULL, event_is_bytes INTEGER NOT NULL, state TEXT NOT NULL, due REAL NOT NULL, created REAL NOT NULL,
        deadline REAL, finished REAL, outcome TEXT, lost INTEGER NOT NULL, result BLOB, result_is_bytes INTEGER NOT NULL,
        error TEXT, fence INTEGER NOT NULL, instance TEXT, replay_of TEXT
    ) STRICT""",
    "CREATE INDEX jobs_due ON jobs (due, id) WHERE state = 'queued'",
    "CREATE INDEX jobs_running ON jobs (id) WHERE state = 'running'",
    "CREATE INDEX jobs_account ON jobs (account, id)",
    "CREATE INDEX jobs_queued_function ON jobs (function) WHERE state = 'queued'",
    "CREATE INDEX jobs_finished ON jobs (finished) WHERE finished IS NOT NULL",
    """CREATE TABLE attempts (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, n INTEGER NOT NULL, started REAL NOT NULL, finished REAL,
        requested INTEGER, executed INTEGER, outcome TEXT, error TEXT, PRIMARY KEY (job, n)
    ) STRICT, WITHOUT ROWID""",
)
_RECORDS = (
    """CREATE TABLE logs (
        cursor INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, function TEXT NOT NULL, version INTEGER NOT NULL,
        invocation TEXT, stream TEXT NOT NULL, line TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX logs_function ON logs (function)",
    "CREATE INDEX logs_invocation ON logs (invocation) WHERE invocation IS NOT NULL",
    """CREATE TABLE usage (
        kind TEXT NOT NULL, minute INTEGER NOT NULL, account TEXT NOT NULL, owner TEXT NOT NULL, function TEXT NOT NULL,
        version INTEGER NOT NULL, outcome TEXT NOT NULL, rows INTEGER NOT NULL, wall_us INTEGER NOT NULL,
        cpu_us INTEGER NOT NULL, gib_ms REAL NOT NULL, bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL,
        PRIMARY KEY (account, minute, kind, owner, function, version, outcome)
    ) STRICT, WITHOUT ROWID""",
)
MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("accounts, functions, jobs, records", (*_ENTITIES, *_JOBS, *_RECORDS)),
)


def open_database(path: str) -> Database:
    """Check, migrate and open the file at `path`, making it when missing.

    Raises PyfaasError: internal for a damaged file or one of a newer release, storage_full.
    """
    try:
        connection = connect(path)
        try:
            check(connection)
            migrate(connection)
        finally:
            connection.close()
        return Database(path)
    except sqlite3.Error as error:
        raise translate(error) from error


def migrate(connection: sqlite3.Connection, migrations: tuple[tuple[str, tuple[str, ...]], ...] = MIGRATIONS) -> None:
    """Apply what is missing, all of it in one transaction. Raises internal when the file is newer than this release."""
    done = int(connection.execute("PRAGMA user_version").fetchone()[0])
    database = sqlite_utils.Database(connection, execute_plugins=False)
    if done > len(migrations):
        raise _newer(connection)
    if done == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if "_migrations" not in database.table_names():
            columns = {"number": int, "name": str, "release": str, "at": float}
            database.create_table("_migrations", columns, pk="number")
        for number, (name, statements) in enumerate(migrations[done:], done + 1):
            for statement in statements:
                connection.execute(statement)
            row = (number, name, __version__, time.time())
            connection.execute('INSERT INTO _migrations (number, name, "release", at) VALUES (?, ?, ?, ?)', row)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check(connection: sqlite3.Connection) -> None:
    """Raise internal for a damaged file."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise PyfaasError(Code.INTERNAL, f"the database is damaged: {found}", hint="restore a backup")


def _newer(connection: sqlite3.Connection) -> PyfaasError:
    row = connection.execute('SELECT "release" FROM _migrations ORDER BY number DESC LIMIT 1').fetchone()
    release = row[0] if row else "a newer release"
    return PyfaasError(
        Code.INTERNAL,
        f"the database was written by pyfaas {release}; this is pyfaas {__version__}",
        hint=f"start pyfaas {release}, or restore a backup made by this release",
        evidence={"written_by": release, "this": __version__},
    )
