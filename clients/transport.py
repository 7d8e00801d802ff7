"""What both clients do around a request, whether they await it or not."""

from __future__ import annotations

from typing import TypedDict

import httpx
from httpx_sse import SSEError

from clients.errors import ConnectionError, ParamemError, ProtocolError
from paramem.settings import load_client_settings

CONNECT_S = 5.0
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class HttpOptions(TypedDict):
    """What ``httpx.Client`` and ``httpx.AsyncClient`` are both built with."""

    base_url: httpx.URL
    headers: dict[str, str]
    timeout: httpx.Timeout
    trust_env: bool


def http_options(url: str | None, api_key: str | None, timeout_s: float) -> HttpOptions:
    """Options for a server at ``url``; what is None comes from ``PARAMEM_URL``/``_API_KEY``.

    Raises: ConnectionError when ``url`` is none.
    """
    settings = load_client_settings()
    address = url or settings.url
    try:
        base_url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ConnectionError(address, f"not a URL: {error}") from error
    if base_url.scheme not in ("http", "https") or not base_url.host:
        raise ConnectionError(address, "not an http:// or https:// URL")
    key = api_key or (settings.api_key.get_secret_value() if settings.api_key else None)
    return {
        "base_url": base_url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(timeout_s, connect=CONNECT_S),
        # A proxy from the environment cannot reach this machine's loopback.
        "trust_env": base_url.host not in LOOPBACK,
    }


def as_client_error(error: httpx.RequestError, base_url: httpx.URL) -> ParamemError:
    """The typed error for a request that got no (whole) answer."""
    url = str(base_url)
    if isinstance(error, SSEError):
        return ProtocolError(f"{url} did not answer with an event stream; is it a paramem server?")
    return ConnectionError(url, str(error) or type(error).__name__)


def broken_off(base_url: httpx.URL) -> ConnectionError:
    """The error for a stream that ended before its last event."""
    return ConnectionError(str(base_url), "the stream broke off before its last event")
