"""One service over HTTP: asked within limits, asked again where that can help, and counted. Knows no service."""

from __future__ import annotations

import dataclasses
import email.utils
import math
import random
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from embeddings_engine.backends.base import Usage
from embeddings_engine.errors import BackendFailed, BackendUnavailable, RateLimited, RequestRefused

ERROR_TEXT_MAX = 300
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True, kw_only=True)
class Service:
    """How to reach a service, and how long to bear with it."""

    api_key: str = ""
    base_url: str = ""
    """Empty means the service's own; an OpenAI-compatible server's ends in /v1."""
    timeout_s: float = 30.0
    attempts_max: int = 5
    backoff_first_s: float = 0.5
    backoff_max_s: float = 20.0
    retry_after_max_s: float = 60.0
    """A service that wants a longer pause gets an error instead of a sleeping caller."""
    calls_at_once: int = 4
    usd_per_million_tokens: float | None = None
    """Overrides the list price of the catalogue."""
    dimensions: int | None = None
    """Asked of the service where it can shorten vectors itself; needed for models the catalogue does not know."""
    window_tokens: int | None = None


class Caller:
    """A connection to a service. Thread-safe."""

    def __init__(self, service: Service) -> None:
        """Raises BackendUnavailable where httpx is missing."""
        try:
            import httpx
        except ImportError as error:
            raise BackendUnavailable("httpx is missing: `pip install httpx`.") from error
        self._service = service
        self._httpx = httpx
        self._client = httpx.Client(
            base_url=service.base_url.rstrip("/"),
            timeout=service.timeout_s,
            headers={"Authorization": f"Bearer {service.api_key}"} if service.api_key else {},
        )
        self._usage = Usage()
        self._lock = threading.Lock()
        self._closing = threading.Event()

    @property
    def address(self) -> str:
        """Whom it asks, for messages."""
        return str(self._client.base_url)

    @property
    def usage(self) -> Usage:
        """What was asked and charged so far."""
        return self._usage

    def charge(self, tokens: int, usd: float) -> None:
        """Count what an answer cost."""
        with self._lock:
            self._usage = dataclasses.replace(
                self._usage, tokens=self._usage.tokens + tokens, usd=self._usage.usd + usd
            )

    def close(self) -> None:
        """Nobody asks any more; one who waits to ask again is told so."""
        self._closing.set()
        self._client.close()

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """The parsed answer; tries again where that can help, within the limits of `Service`.

        Raises BackendFailed, RateLimited and RequestRefused.
        """
        for attempt in range(1, self._service.attempts_max + 1):
            try:
                return self._try(path, body)
            except RequestRefused:
                raise
            except BackendFailed as error:
                if attempt == self._service.attempts_max:
                    raise
                pause_s = self._pause_s(error, attempt)
            with self._lock:
                self._usage = dataclasses.replace(self._usage, retries=self._usage.retries + 1)
            if self._closing.wait(pause_s):
                raise BackendFailed("the engine was closed while a service was asked again.")
        raise AssertionError("attempts_max is at least 1")

    def _pause_s(self, error: BackendFailed, attempt: int) -> float:
        asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
        if asked_s is not None:
            if asked_s > self._service.retry_after_max_s:
                raise error
            return asked_s
        longest_s: float = min(self._service.backoff_max_s, self._service.backoff_first_s * 2 ** (attempt - 1))
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311  (spreads callers, hides nothing)

    def _try(self, path: str, body: dict[str, Any]) -> Any:
        with self._lock:
            self._usage = dataclasses.replace(self._usage, requests=self._usage.requests + 1)
        try:
            response = self._client.post(path, json=body)
        except self._httpx.TimeoutException as error:
            raise BackendFailed(f"{self.address} did not answer within {self._service.timeout_s:g} s.") from error
        except self._httpx.HTTPError as error:
            raise BackendFailed(f"{self.address} cannot be reached: {error}") from error
        if response.status_code == 200:
            try:
                return response.json()
            except ValueError as error:
                raise BackendFailed(f"{self.address} answered with something else than JSON.") from error
        said = f"{self.address} answered {response.status_code}: {response.text[:ERROR_TEXT_MAX]}"
        if response.status_code not in _RETRIED:
            raise RequestRefused(said)
        after_s = retry_after_s(response.headers.get("retry-after"))
        raise RateLimited(said, after_s) if response.status_code == 429 or after_s is not None else BackendFailed(said)


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: it holds a number or a date."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            until = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
