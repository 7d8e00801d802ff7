"""The key file of a running server, read again when it changes: rotation needs no restart."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from server.keys import ApiKey, KeyLineError, digest_of, parse_keys

REREAD_S = 1.0

log = structlog.get_logger(__name__)


class ApiKeyFileError(ValueError):
    """The key file cannot be used; the message names the setting."""


class KeyFile:
    """The keys in force. A file that turns bad leaves those of before in force.

    The whole file is read, at most once a second: it is small, and comparing bytes has no blind
    spot, as times of modification have.

    Raises: ApiKeyFileError for a file that cannot be read or has a line that is not a key.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = clock()
        self._fault: str | None = None
        self._content = self._read()
        self._keys = self._parse(self._content)

    def find(self, candidate: bytes) -> ApiKey | None:
        """The key that ``candidate`` is, if it is one."""
        self._reread()
        digest = digest_of(candidate)
        # Every key is compared: stopping at the first match would tell which one it was.
        found = [key for key in self._keys if hmac.compare_digest(digest, key.digest)]
        return found[0] if found else None

    def _reread(self) -> None:
        with self._lock:
            if self._clock() - self._read_at < REREAD_S:
                return
            self._read_at = self._clock()
            fault = None
            try:
                content = self._read()
                if content != self._content:
                    self._keys = self._parse(content)
                    self._content = content
                    log.info("api_keys_read", keys=[key.name for key in self._keys])
            except ApiKeyFileError as error:
                fault = str(error)
                if fault != self._fault:  # once, not every second
                    log.error("api_keys_kept", error=fault)
            self._fault = fault

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise ApiKeyFileError(self._told(f"cannot be read: {error}")) from error

    def _parse(self, content: bytes) -> tuple[ApiKey, ...]:
        try:
            return parse_keys(content.decode("utf-8"))
        except UnicodeDecodeError:
            raise ApiKeyFileError(self._told("is not UTF-8")) from None
        except KeyLineError as error:
            raise ApiKeyFileError(self._told(str(error))) from None

    def _told(self, what: str) -> str:
        return f"PARAMEM_API_KEY_FILE {self._path}: {what}"
