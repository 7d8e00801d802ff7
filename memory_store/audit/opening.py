"""What is looked at before anything is served: what leads to rows, which no row's checksum covers.

A flipped bit in a page, an index or the table that filters search would find other rows than were
written, or none. Indexes and that table are derived and made again. Rows are checked where they
are read.
"""

from __future__ import annotations

import logging

from memory_store.audit.field_audit import audit_fields
from memory_store.audit.page_audit import audit_pages
from memory_store.errors import CorruptionError
from memory_store.storage import Storage

log = logging.getLogger(__name__)


def mend_derived(storage: Storage) -> None:
    """Make again what is not what the rows say. Reads the whole catalogue once.

    Raises:
        CorruptionError: the damage lies in what nothing else says.
    """
    for audit in (audit_pages, audit_fields):
        try:
            findings = audit(storage)
        except CorruptionError:
            continue  # of a row: whoever reads it is told
        for finding in findings:
            problem = finding.settle(repair=True)
            if not problem.repaired:
                raise CorruptionError(f"this home stays shut: {problem.message}; {problem.repair}")
            storage.counters.index_rebuilds += 1
            log.warning("catalogue_mended: %s", problem.message)
