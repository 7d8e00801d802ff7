"""Everything the store can refuse.

StoreError
├── NotFoundError            unknown collection, document, job
├── ConflictError            state does not allow it
│   ├── FingerprintMismatchError   memory and collection belong to different bundles
│   ├── QuantiserMissingError      rq codes, and no bundle with their codebooks is loaded
│   ├── IdempotencyConflictError   same key, other body
│   └── LeaseLostError             the job now belongs to another worker
├── QueueFullError           carries retry_after_s
├── DiskFullError            below the disk floor, or the write hit ENOSPC
├── DiskFailedError          the device failed, is read-only, or stayed locked; try again later
├── InvalidCursorError       a cursor this store did not make
├── InvalidFilterError       a filter the store cannot apply
├── InvalidMemoryError       a code that cannot be stored: wrong shape, NaN, out of range
├── CorruptionError          checksum, header or catalogue does not agree with itself
└── IncompatibleFormatError  written by a newer paramem
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of the store's errors; ``code`` is stable and goes over the wire."""

    code = "store_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class NotFoundError(StoreError):
    code = "not_found"


class ConflictError(StoreError):
    code = "conflict"


class FingerprintMismatchError(ConflictError):
    code = "fingerprint_mismatch"


class QuantiserMissingError(ConflictError):
    code = "quantiser_missing"


class IdempotencyConflictError(ConflictError):
    code = "idempotency_key_reused"


class LeaseLostError(ConflictError):
    code = "lease_lost"


class QueueFullError(StoreError):
    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DiskFullError(StoreError):
    code = "disk_full"


class DiskFailedError(StoreError):
    code = "disk_failed"


class InvalidCursorError(StoreError):
    code = "invalid_cursor"


class InvalidFilterError(StoreError):
    code = "invalid_filter"


class InvalidMemoryError(StoreError):
    code = "invalid_memory"


class CorruptionError(StoreError):
    code = "corruption"


class IncompatibleFormatError(StoreError):
    code = "incompatible_format"
