-- A checksum a row (see row_sums.py), and idempotency keys that belong to a collection.

-- Keys of earlier commits lack the prefix "<collection_id>/" that they are looked up with. One that
-- happens to begin with its own collection's number and a slash is taken for prefixed. Where both
-- are there, the newer is what the client last heard of.
UPDATE OR IGNORE idempotency_keys SET key =
    (SELECT j.collection_id FROM jobs j WHERE j.job_id = idempotency_keys.job_id) || '/' || key
WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.job_id = idempotency_keys.job_id
    AND substr(key, 1, length(j.collection_id) + 1) = j.collection_id || '/');
DELETE FROM idempotency_keys
WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.job_id = idempotency_keys.job_id
    AND substr(key, 1, length(j.collection_id) + 1) = j.collection_id || '/');

ALTER TABLE documents ADD COLUMN text_sum INTEGER;  -- xxh3 of the body in texts, kept or not
UPDATE documents SET text_sum =
    body_sum((SELECT body FROM texts t WHERE t.document_key = documents.document_key));

ALTER TABLE collections      ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE documents        ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE shards           ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE memories         ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs             ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE idempotency_keys ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;

UPDATE collections SET row_sum = row_sum(collection_id, name, fingerprint, slots, z_dim,
    code_format, created_at, deleted_at, num_documents, num_memories, change_seq, purged_seq);
UPDATE documents SET row_sum = row_sum(document_key, collection_id, document_id, version, title,
    metadata, keep_text, num_chars, is_current, created_at, text_sum);
UPDATE shards SET row_sum = row_sum(shard_id, collection_id, name, num_rows, num_bytes, created_at);
UPDATE memories SET row_sum = row_sum(memory_id, collection_id, document_key, passage, tier,
    shard_id, shard_row, checksum, num_bytes, num_tokens, text_start, text_end, stats, created_at,
    added_seq, removed_seq);
UPDATE jobs SET row_sum = row_sum(job_id, collection_id, document_id, version, tier, mode, priority,
    status, progress, attempts, max_attempts, error_code, error_message, result, refine_job_id,
    created_at, started_at, finished_at, not_before, lease_owner, lease_expires_at);
UPDATE idempotency_keys SET row_sum = row_sum(key, request_hash, job_id, created_at);
