-- The catalogue: what is remembered, and the queue of what is still to be remembered.

-- A deleted collection keeps its row (and its number, hence its directory) but not its name.
CREATE TABLE collections (
    collection_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT    NOT NULL,
    fingerprint   TEXT    NOT NULL,
    slots         INTEGER NOT NULL,
    z_dim         INTEGER NOT NULL,
    code_format   TEXT    NOT NULL,
    created_at    REAL    NOT NULL,
    deleted_at    REAL,
    num_documents INTEGER NOT NULL DEFAULT 0,
    num_memories  INTEGER NOT NULL DEFAULT 0,
    -- counts the transactions that changed this collection's memories: what an index syncs from
    change_seq    INTEGER NOT NULL DEFAULT 0,
    -- tombstones up to here are gone: an index older than this cannot sync from them
    purged_seq    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX collections_by_name ON collections (name) WHERE deleted_at IS NULL;

-- One row per version. The newest row of an id outlives the document, so that versions only grow.
CREATE TABLE documents (
    document_key  INTEGER PRIMARY KEY AUTOINCREMENT,
    collection_id INTEGER NOT NULL REFERENCES collections (collection_id),
    document_id   TEXT    NOT NULL,
    version       INTEGER NOT NULL,
    title         TEXT,
    metadata      TEXT    NOT NULL,
    keep_text     INTEGER NOT NULL,
    num_chars     INTEGER NOT NULL,
    is_current    INTEGER NOT NULL,
    created_at    REAL    NOT NULL,
    UNIQUE (collection_id, document_id, version)
) STRICT;
CREATE UNIQUE INDEX documents_current ON documents (collection_id, document_id) WHERE is_current = 1;

-- The scalar metadata of a version, one row a key: what filters search.
CREATE TABLE fields (
    collection_id INTEGER NOT NULL,
    key           TEXT    NOT NULL,
    kind          TEXT    NOT NULL,  -- text | number | bool | null
    value         ANY     NOT NULL,
    document_key  INTEGER NOT NULL REFERENCES documents (document_key) ON DELETE CASCADE,
    PRIMARY KEY (collection_id, key, kind, value, document_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX fields_by_document ON fields (document_key);

CREATE TABLE texts (
    document_key INTEGER PRIMARY KEY REFERENCES documents (document_key) ON DELETE CASCADE,
    body         BLOB NOT NULL  -- zstd
) STRICT;

CREATE TABLE shards (
    shard_id      INTEGER PRIMARY KEY AUTOINCREMENT,
    collection_id INTEGER NOT NULL REFERENCES collections (collection_id),
    name          TEXT    NOT NULL UNIQUE,  -- path below shards/
    num_rows      INTEGER NOT NULL,
    num_bytes     INTEGER NOT NULL,
    created_at    REAL    NOT NULL
) STRICT;
CREATE INDEX shards_by_collection ON shards (collection_id);

CREATE TABLE memories (
    memory_id     INTEGER PRIMARY KEY AUTOINCREMENT,
    collection_id INTEGER NOT NULL REFERENCES collections (collection_id),
    document_key  INTEGER NOT NULL REFERENCES documents (document_key),
    passage       INTEGER NOT NULL,
    tier          TEXT    NOT NULL,
    shard_id      INTEGER NOT NULL REFERENCES shards (shard_id),
    shard_row     INTEGER NOT NULL,
    checksum      TEXT    NOT NULL,  -- xxh3 of the code's bytes, "-", xxh3 of the key's
    num_bytes     INTEGER NOT NULL,
    num_tokens    INTEGER NOT NULL,
    text_start    INTEGER NOT NULL,
    text_end      INTEGER NOT NULL,
    stats         TEXT    NOT NULL,
    created_at    REAL    NOT NULL,
    added_seq     INTEGER NOT NULL,
    removed_seq   INTEGER,  -- the tombstone
    UNIQUE (shard_id, shard_row)
) STRICT;
CREATE UNIQUE INDEX memories_live ON memories (document_key, passage) WHERE removed_seq IS NULL;
CREATE INDEX memories_added ON memories (collection_id, added_seq);
CREATE INDEX memories_removed ON memories (collection_id, removed_seq)
    WHERE removed_seq IS NOT NULL;
CREATE INDEX memories_by_document ON memories (document_key);

CREATE TABLE jobs (
    job_id           TEXT    PRIMARY KEY,
    collection_id    INTEGER NOT NULL REFERENCES collections (collection_id),
    document_id      TEXT    NOT NULL,
    version          INTEGER NOT NULL,
    tier             TEXT    NOT NULL,
    mode             TEXT    NOT NULL,
    priority         INTEGER NOT NULL,  -- 0 fast, 1 fit, 2 fit that refines an existing memory
    status           TEXT    NOT NULL,
    progress         REAL    NOT NULL DEFAULT 0,
    attempts         INTEGER NOT NULL DEFAULT 0,
    max_attempts     INTEGER NOT NULL,
    error_code       TEXT,
    error_message    TEXT,
    result           TEXT,
    refine_job_id    TEXT,
    created_at       REAL    NOT NULL,
    started_at       REAL,
    finished_at      REAL,
    not_before       REAL    NOT NULL DEFAULT 0,
    lease_owner      TEXT,
    lease_expires_at REAL
) STRICT;
CREATE INDEX jobs_queued ON jobs (priority, job_id) WHERE status = 'queued';
CREATE INDEX jobs_running ON jobs (lease_expires_at) WHERE status = 'running';
CREATE INDEX jobs_by_status ON jobs (status, job_id);
CREATE INDEX jobs_by_document ON jobs (collection_id, document_id, version);

CREATE TABLE idempotency_keys (
    key          TEXT PRIMARY KEY,
    request_hash TEXT NOT NULL,
    job_id       TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    created_at   REAL NOT NULL
) STRICT;
CREATE INDEX idempotency_keys_by_job ON idempotency_keys (job_id);

CREATE TABLE workers (
    worker_id    TEXT PRIMARY KEY,
    fingerprint  TEXT NOT NULL,
    state        TEXT NOT NULL,
    heartbeat_at REAL NOT NULL,
    started_at   REAL NOT NULL
) STRICT;

-- Running averages that outlive a process.
CREATE TABLE measures (
    name  TEXT PRIMARY KEY,
    value REAL NOT NULL
) STRICT;
