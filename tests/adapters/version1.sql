-- A database as release 0.1.0 wrote it, schema 1. Never edited: what is in it must survive every migration.
BEGIN TRANSACTION;
CREATE TABLE "_migrations" (
   "number" INTEGER PRIMARY KEY,
   "name" TEXT,
   "release" TEXT,
   "at" REAL
);
INSERT INTO "_migrations" VALUES(1,'accounts, functions, jobs, records','0.1.0',1.7e9);
CREATE TABLE accounts (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, network INTEGER NOT NULL, created REAL NOT NULL, removed REAL
    ) STRICT;
INSERT INTO "accounts" VALUES('000000000001','alice',1,1.0,NULL);
CREATE TABLE attempts (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, n INTEGER NOT NULL, started REAL NOT NULL, finished REAL,
        requested INTEGER, executed INTEGER, outcome TEXT, error TEXT, PRIMARY KEY (job, n)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE callables (
        account TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, UNIQUE (account, name)
    ) STRICT;
INSERT INTO "callables" VALUES('000000000001','resize','function','f-resize');
CREATE TABLE functions (
        id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts (id), name TEXT NOT NULL,
        settings TEXT NOT NULL, created REAL NOT NULL, removed REAL
    ) STRICT;
INSERT INTO "functions" VALUES('f-resize','000000000001','resize','{"concurrency":20,"public":false,"idempotent":false,"stale":"allow","max_stale_time_ms":null,"max_stale_requests":null,"stale_percent":null,"min_version":null,"max_wait_ms":120000,"retries":{"max":2,"initial_ms":1000,"factor":2.0,"max_delay_ms":300000}}',2.0,NULL);
CREATE TABLE jobs (
        id TEXT PRIMARY KEY, account TEXT NOT NULL, function TEXT NOT NULL, name TEXT NOT NULL, qualifier TEXT,
        event BLOB NOT NULL, event_is_bytes INTEGER NOT NULL, state TEXT NOT NULL, due REAL NOT NULL, created REAL NOT NULL,
        deadline REAL, finished REAL, outcome TEXT, lost INTEGER NOT NULL, result BLOB, result_is_bytes INTEGER NOT NULL,
        error TEXT, fence INTEGER NOT NULL, instance TEXT, replay_of TEXT
    ) STRICT;
INSERT INTO "jobs" VALUES('j1','000000000001','f-resize','resize',NULL,X'7B227769647468223A2036347D',0,'queued',10.0,10.0,NULL,NULL,NULL,0,NULL,0,NULL,0,NULL,NULL);
CREATE TABLE logs (
        cursor INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, function TEXT NOT NULL, version INTEGER NOT NULL,
        invocation TEXT, stream TEXT NOT NULL, line TEXT NOT NULL
    ) STRICT;
INSERT INTO "logs" VALUES(1,5.0,'f-resize',1,'i1','out','hello');
INSERT INTO "logs" VALUES(2,6.0,'f-resize',1,NULL,'build','Collecting idna');
INSERT INTO "logs" VALUES(3,7.0,'f-resize',1,'i1','err','é');
INSERT INTO "logs" VALUES(4,8.0,'f-resize',1,NULL,'build','done');
CREATE TABLE pointer_moves (
        function TEXT NOT NULL, pointer TEXT NOT NULL, seq INTEGER NOT NULL, version INTEGER NOT NULL, at REAL NOT NULL,
        weights TEXT NOT NULL, removed INTEGER NOT NULL DEFAULT 0,
        FOREIGN KEY (function, version) REFERENCES versions (function, number)
    ) STRICT;
INSERT INTO "pointer_moves" VALUES('f-resize','latest',1,1,4.0,'{}',0);
CREATE TABLE revisions (
        function TEXT NOT NULL REFERENCES functions (id), code_id TEXT NOT NULL, bundle TEXT NOT NULL,
        size_bytes INTEGER NOT NULL, revision TEXT NOT NULL, PRIMARY KEY (function, code_id)
    ) STRICT;
INSERT INTO "revisions" VALUES('f-resize','sha256-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','sha256-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',100,'{"handler":null,"shape":null,"memory_bytes":268435456,"timeout_ms":30000,"init_timeout_ms":60000,"requirements":["idna"],"env":[["A","1"]],"network":[],"pickled":false}');
CREATE TABLE tokens (
        id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts (id), digest BLOB NOT NULL UNIQUE,
        scopes TEXT NOT NULL, label TEXT NOT NULL, created REAL NOT NULL, expires REAL, revoked REAL
    ) STRICT;
INSERT INTO "tokens" VALUES('t1','000000000001',X'628B49D96DCDE97A430DD4F597705899E09A968F793491E4B704CAE33A40DC02','invoke read','',1.5,NULL,NULL);
CREATE TABLE usage (
        kind TEXT NOT NULL, minute INTEGER NOT NULL, account TEXT NOT NULL, owner TEXT NOT NULL, function TEXT NOT NULL,
        version INTEGER NOT NULL, outcome TEXT NOT NULL, rows INTEGER NOT NULL, wall_us INTEGER NOT NULL,
        cpu_us INTEGER NOT NULL, gib_ms REAL NOT NULL, bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL,
        PRIMARY KEY (account, minute, kind, owner, function, version, outcome)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "usage" VALUES('call',1,'000000000001','000000000001','f-resize',1,'ok',2,3000,2000,1.5,10,20);
CREATE TABLE versions (
        function TEXT NOT NULL, number INTEGER NOT NULL, code_id TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
        created REAL NOT NULL, withdrawn INTEGER NOT NULL, handler TEXT, shape TEXT, generator INTEGER NOT NULL,
        environment TEXT, deleted INTEGER NOT NULL, PRIMARY KEY (function, number),
        FOREIGN KEY (function, code_id) REFERENCES revisions (function, code_id)
    ) STRICT;
INSERT INTO "versions" VALUES('f-resize',1,'sha256-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','stored',NULL,3.0,0,NULL,NULL,0,NULL,0);
CREATE UNIQUE INDEX accounts_name ON accounts (name) WHERE removed IS NULL;
CREATE INDEX tokens_account ON tokens (account);
CREATE INDEX functions_account ON functions (account);
CREATE UNIQUE INDEX pointer_moves_seq ON pointer_moves (function, pointer, seq) WHERE removed = 0;
CREATE INDEX jobs_due ON jobs (due, id) WHERE state = 'queued';
CREATE INDEX jobs_running ON jobs (id) WHERE state = 'running';
CREATE INDEX jobs_account ON jobs (account, id);
CREATE INDEX jobs_queued_function ON jobs (function) WHERE state = 'queued';
CREATE INDEX jobs_finished ON jobs (finished) WHERE finished IS NOT NULL;
CREATE INDEX logs_function ON logs (function);
CREATE INDEX logs_invocation ON logs (invocation) WHERE invocation IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('logs',4);
COMMIT;PRAGMA user_version = 1;
