"""The tables, as numbered migrations, and the only way to open the database file.

A migration is never edited once released: a change is a new one at the end. `PRAGMA user_version` is the number of those
applied, `_migrations` says which release applied each. A file from a newer release is refused by that release's name.
Names are unique among the living: partial indexes, and `callables`, the one register of living names of an account.
Jobs have no foreign keys: the queue is a port of its own, and may one day live elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import sqlite_utils

from pyfaas import __version__
from pyfaas.adapters.sqlite.connection import Database, connect, translate
from pyfaas.errors import Code, PyfaasError

_RESTORE = "restore a backup into an empty directory: pyfaas restore FILE --data-dir DIR"
_WHOLE_BYTES = 128 << 20  # about a second's reading
_UNCHECKED = frozenset({"logs", "build_logs", "usage", "jobs", "attempts", "events", "audit"})  # what is large; a backup looks at it all
_INCREMENTAL = 2  # of PRAGMA auto_vacuum
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
# Build logs are few, and read long after the runs' logs are gone: apart, each table is trimmed from its oldest end.
# `log_sizes` counts what a function's lines take in the file, about; whoever adds or removes lines keeps it (`store`):
# triggers would do it too, and make a line three times as dear.
_LOG_SIZES = (
    """CREATE TABLE build_logs (
        cursor INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, function TEXT NOT NULL, version INTEGER NOT NULL,
        invocation TEXT, stream TEXT NOT NULL, line TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX build_logs_function ON build_logs (function)",
    """INSERT INTO build_logs (at, function, version, invocation, stream, line)
        SELECT at, function, version, invocation, stream, line FROM logs WHERE stream = 'build' ORDER BY cursor""",
    "DELETE FROM logs WHERE stream = 'build'",
    "CREATE TABLE log_sizes (function TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "INSERT INTO log_sizes SELECT function, sum(length(CAST(line AS BLOB)) + 128) FROM logs GROUP BY function",
)
# A function that said nothing of staleness was kept with the defaults of its release, which now are none: what was never said
# must not override what an account says.
_ROLLOUTS = (
    "ALTER TABLE accounts ADD COLUMN policy TEXT NOT NULL DEFAULT '{}'",
    "ALTER TABLE pointer_moves ADD COLUMN policy TEXT NOT NULL DEFAULT '{}'",
    """UPDATE functions SET settings = json_set(settings, '$.stale', json('null'))
        WHERE json_extract(settings, '$.stale') = 'allow'""",
    """UPDATE functions SET settings = json_set(settings, '$.max_wait_ms', json('null'))
        WHERE json_extract(settings, '$.max_wait_ms') = 120000""",
    """CREATE TABLE canaries (
        function TEXT NOT NULL, pointer TEXT NOT NULL, version INTEGER NOT NULL, base INTEGER, state TEXT NOT NULL,
        percent INTEGER NOT NULL, promote_after_ms INTEGER NOT NULL, error_budget REAL NOT NULL, step INTEGER NOT NULL,
        since REAL NOT NULL, runs INTEGER NOT NULL, faults INTEGER NOT NULL, seq INTEGER NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (function, pointer), FOREIGN KEY (function, version) REFERENCES versions (function, number)
    ) STRICT""",
    """CREATE TABLE events (
        cursor INTEGER PRIMARY KEY, at REAL NOT NULL, function TEXT NOT NULL, version INTEGER NOT NULL, kind TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX events_function ON events (function)",
)
# A lock's text is shared by the versions that resolved to it; the environment's name is its hash (with interpreter and platform).
_LOCKS = ("CREATE TABLE locks (environment TEXT PRIMARY KEY, lock TEXT NOT NULL) STRICT",)
# `terms`, `binding`, `definition` and `data` are values of `pyfaas.sharing` as JSON. What ended or was removed stays as a tombstone: ids are
# what carries a right. A secret's ciphertext is bound to its owner's id and its key.
_SHARING = (
    """CREATE TABLE grants (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL REFERENCES accounts (id), target TEXT NOT NULL, name TEXT NOT NULL, caller TEXT,
        terms TEXT NOT NULL, created REAL NOT NULL, ended REAL
    ) STRICT""",
    "CREATE UNIQUE INDEX grants_living ON grants (target, ifnull(caller, '')) WHERE ended IS NULL",
    """CREATE TABLE account_aliases (
        id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts (id), name TEXT NOT NULL, binding TEXT NOT NULL,
        created REAL NOT NULL, removed REAL
    ) STRICT""",
    "CREATE TABLE apis (id TEXT PRIMARY KEY, owner TEXT NOT NULL REFERENCES accounts (id), name TEXT NOT NULL, created REAL NOT NULL, removed REAL) STRICT",
    "CREATE UNIQUE INDEX apis_name ON apis (owner, name) WHERE removed IS NULL",
    """CREATE TABLE api_versions (
        api TEXT NOT NULL REFERENCES apis (id), version TEXT NOT NULL, digest TEXT NOT NULL, definition TEXT NOT NULL, state TEXT NOT NULL,
        created REAL NOT NULL, changed REAL NOT NULL, PRIMARY KEY (api, version)
    ) STRICT""",
    """CREATE TABLE subscriptions (
        id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts (id), name TEXT NOT NULL, api TEXT NOT NULL REFERENCES apis (id),
        state TEXT NOT NULL, data TEXT NOT NULL, created REAL NOT NULL, ended REAL
    ) STRICT""",
    "CREATE UNIQUE INDEX subscriptions_living ON subscriptions (account, api) WHERE state IN ('pending', 'active')",
    """CREATE TABLE secrets (
        owner TEXT NOT NULL, key TEXT NOT NULL, key_id TEXT NOT NULL, sealed BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (owner, key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX secrets_key_id ON secrets (key_id)",
    """CREATE TABLE audit (
        cursor INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, account TEXT NOT NULL, kind TEXT NOT NULL, other TEXT, name TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX audit_account ON audit (account)",
    "ALTER TABLE accounts ADD COLUMN quota TEXT NOT NULL DEFAULT '{}'",
    "ALTER TABLE jobs ADD COLUMN way TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX jobs_queued_way ON jobs (way) WHERE state = 'queued' AND way <> ''",
)
# Who called, by which name of theirs and which operation, what a run's highest memory was, and what it moved over the network.
_USAGE = (
    "ALTER TABLE usage RENAME TO usage_before",
    """CREATE TABLE usage (
        kind TEXT NOT NULL, minute INTEGER NOT NULL, account TEXT NOT NULL, caller TEXT NOT NULL, owner TEXT NOT NULL, function TEXT NOT NULL,
        way TEXT NOT NULL, operation TEXT NOT NULL, version INTEGER NOT NULL, outcome TEXT NOT NULL, rows INTEGER NOT NULL,
        wall_us INTEGER NOT NULL, cpu_us INTEGER NOT NULL, gib_ms REAL NOT NULL, peak_bytes INTEGER NOT NULL, bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL, net_in INTEGER NOT NULL, net_out INTEGER NOT NULL, connections INTEGER NOT NULL,
        PRIMARY KEY (account, minute, kind, caller, owner, function, way, operation, version, outcome)
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO usage SELECT kind, minute, account, account, owner, function, '', '', version, outcome, rows, wall_us, cpu_us, gib_ms, 0,
        bytes_in, bytes_out, 0, 0, 0 FROM usage_before""",
    "DROP TABLE usage_before",
    "CREATE INDEX usage_caller ON usage (caller, minute) WHERE caller <> account",
    "CREATE INDEX usage_owner ON usage (owner, minute) WHERE owner <> account",
)
MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("accounts, functions, jobs, records", (*_ENTITIES, *_JOBS, *_RECORDS)),
    ("build logs apart, sizes of logs", _LOG_SIZES),
    ("policies, canaries, events", _ROLLOUTS),
    ("locks of requirements", _LOCKS),
    ("lending, secrets, the audit trail", _SHARING),
    ("usage of lent runs", _USAGE),
)


def open_database(path: str) -> Database:
    """Check, migrate and open the file at `path`, making it when there is nothing yet.

    Before an older file is migrated it is copied to `path` + `.before-migration`. Raises PyfaasError: internal for a file that
    is damaged, read-only, another program's or a newer release's, or that is gone while what belongs to it is there;
    storage_full.
    """
    _refuse_loss(path)
    try:
        with contextlib.closing(connect(path)) as connection:
            check(connection, tables=_tables_to_check(connection))
            _refuse_foreign(connection, path)
            _keep_copy(connection, path)
            migrate(connection)
            _shrinkable(connection)
        return Database(path)
    except sqlite3.Error as error:
        raise _told(error, path) from error


def migrate(connection: sqlite3.Connection, migrations: tuple[tuple[str, tuple[str, ...]], ...] = MIGRATIONS) -> None:
    """Apply what is missing, all of it in one transaction. Raises internal when the file is newer than this release."""
    done = _applied(connection)
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


def check(connection: sqlite3.Connection, tables: Sequence[str] = ("1",)) -> None:
    """Raise internal for a damaged file; `tables` limits what is looked at, else it is everything."""
    for table in tables:
        found = connection.execute(f"PRAGMA quick_check({table})").fetchone()[0]
        if found != "ok":
            raise PyfaasError(Code.INTERNAL, f"the database is damaged: {found.splitlines()[-1]}", hint=_RESTORE)


def _tables_to_check(connection: sqlite3.Connection) -> Sequence[str]:
    """Return what is looked at before serving: of a large file not the records, lest a start take as long as reading them."""
    pages, size = (int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size"))
    if pages * size <= _WHOLE_BYTES:
        return ("1",)
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE TABLE%'")
    return [row[0] for row in found if row[0] not in _UNCHECKED]


def _applied(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _refuse_loss(path: str) -> None:
    """Raise internal when the file is gone or empty and its keys or bundles are there: nobody wants to begin anew then."""
    file = Path(path)
    if file.exists() and file.stat().st_size:
        return
    left = [name for pattern in ("*.token", "bundles/*.zip") for name in sorted(file.parent.glob(pattern))]
    if left:
        state = "empty" if file.exists() else "gone"
        message = f"the database {path} is {state}, though {left[0].relative_to(file.parent)} is there"
        raise PyfaasError(Code.INTERNAL, message, hint=f"{_RESTORE}; to begin anew, use another --data-dir")


def _refuse_foreign(connection: sqlite3.Connection, path: str) -> None:
    """Raise internal for another program's database, and sqlite3.Error for one that cannot be written."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "_migrations" not in tables:
        message = f"{path} is a database of another program: it has a table {min(tables)!r}, and none of pyfaas's"
        raise PyfaasError(Code.INTERNAL, message, hint="use another --data-dir")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")


def _keep_copy(connection: sqlite3.Connection, path: str) -> None:
    """Keep an older file as it is before it is migrated; one copy, the last, whole or not at all."""
    if not 0 < _applied(connection) < len(MIGRATIONS):
        return
    kept, made = f"{path}.before-migration", f"{path}.before-migration.part"
    Path(made).unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as copy:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file; SQLite syncs it
    os.replace(made, kept)


def _shrinkable(connection: sqlite3.Connection) -> None:
    """Let an older file give room back (`Database.shrink`): its free pages need a map, which only VACUUM can add."""
    if int(connection.execute("PRAGMA auto_vacuum").fetchone()[0]) != _INCREMENTAL:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        try:
            connection.execute("VACUUM")
        except sqlite3.Error as error:
            if translate(error).code is not Code.STORAGE_FULL and error.sqlite_errorname != "SQLITE_BUSY":
                raise  # without room for it, or beside the server that this one replaces, it is done another time


def _told(error: sqlite3.Error, path: str) -> PyfaasError:
    """Say what is wrong with the file itself; anything else as at any other time."""
    name = str(getattr(error, "sqlite_errorname", ""))
    evidence = {"sqlite": name}
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        what = "is no database" if name == "SQLITE_NOTADB" else "is damaged"
        return PyfaasError(Code.INTERNAL, f"the database {path} {what}", hint=_RESTORE, evidence=evidence)
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        hint = "give the server's user its data directory, writable"
        return PyfaasError(Code.INTERNAL, f"the database {path} cannot be written", hint=hint, evidence=evidence)
    return translate(error)


def _newer(connection: sqlite3.Connection) -> PyfaasError:
    row = connection.execute('SELECT "release" FROM _migrations ORDER BY number DESC LIMIT 1').fetchone()
    release = row[0] if row else "(a newer release)"
    return PyfaasError(
        Code.INTERNAL,
        f"the database was written by pyfaas {release}; this is pyfaas {__version__}",
        hint=f"start pyfaas {release}, or restore a backup made by this release",
        evidence={"written_by": release, "this": __version__},
    )
