"""Calling an embedding service over HTTP: limits, retries, money. Knows no service; `openai.py` and `cohere.py` do."""

from __future__ import annotations

import dataclasses
import email.utils
import math
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from embeddings_engine.backends.base import Traits, Usage, Vectors, normalised
from embeddings_engine.errors import BackendFailed, BackendUnavailable, RateLimited, RequestRefused
from embeddings_engine.estimates import estimated_items, estimated_tokens, estimated_windows
from embeddings_engine.tokens import Item, Span

EMPTY = " "
"""Stands for a text without characters, which services refuse."""
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


class Dialect(Protocol):
    """What differs between services."""

    def request(self, texts: Sequence[str], *, query: bool) -> tuple[str, dict[str, Any]]:
        """Path under the base URL, and the body."""

    def read(self, answer: Any, count: int) -> tuple[list[list[float]], int]:
        """Vectors in the order of the texts, and the tokens charged. Raises KeyError, TypeError or ValueError."""


class ServiceBackend:
    """backends.base.Backend over HTTP. Thread-safe."""

    def __init__(self, traits: Traits, dialect: Dialect, service: Service, usd_per_million_tokens: float) -> None:
        try:
            import httpx
        except ImportError as error:
            raise BackendUnavailable("httpx is missing: `pip install embeddings-engine[service]`.") from error
        self.traits = dataclasses.replace(traits, calls_at_once=service.calls_at_once)
        self._dialect, self._service = dialect, service
        self._httpx = httpx
        self._client = httpx.Client(
            base_url=service.base_url.rstrip("/"),
            timeout=service.timeout_s,
            headers={"Authorization": f"Bearer {service.api_key}"} if service.api_key else {},
        )
        self._price = (
            usd_per_million_tokens if service.usd_per_million_tokens is None else service.usd_per_million_tokens
        )
        self._usage = Usage()
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def prepare(self, texts: Sequence[str]) -> list[Item]:
        return estimated_items(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [estimated_tokens(text) for text in texts]

    def windows(self, text: str, tokens_max: int) -> list[Span]:
        return estimated_windows(text, tokens_max)

    def run(self, items: Sequence[Item], *, query: bool) -> Vectors:
        path, body = self._dialect.request([item.text or EMPTY for item in items], query=query)
        answer = self._ask(path, body)
        try:
            rows, tokens = self._dialect.read(answer, len(items))
            found = _checked(rows, (len(items), self.traits.dimensions))
        except (KeyError, TypeError, ValueError) as error:
            raise BackendFailed(
                f"{self._client.base_url} answered with something else than embeddings ({error!r})."
            ) from error
        with self._lock:
            self._usage = dataclasses.replace(
                self._usage, tokens=self._usage.tokens + tokens, usd=self._usage.usd + tokens * self._price / 1e6
            )
        return normalised(found)

    def usage(self) -> Usage:
        return self._usage

    def close(self) -> None:
        self._closing.set()
        self._client.close()

    def __enter__(self) -> ServiceBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        """The parsed answer; tries again where that can help, within the limits of `Service`."""
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
            raise BackendFailed(
                f"{self._client.base_url} did not answer within {self._service.timeout_s:g} s."
            ) from error
        except self._httpx.HTTPError as error:
            raise BackendFailed(f"{self._client.base_url} cannot be reached: {error}") from error
        if response.status_code == 200:
            try:
                return response.json()
            except ValueError as error:
                raise BackendFailed(f"{self._client.base_url} answered with something else than JSON.") from error
        said = f"{self._client.base_url} answered {response.status_code}: {response.text[:ERROR_TEXT_MAX]}"
        if response.status_code not in _RETRIED:
            raise RequestRefused(said)
        after_s = retry_after_s(response.headers.get("retry-after"))
        raise RateLimited(said, after_s) if response.status_code == 429 or after_s is not None else BackendFailed(said)


def _checked(rows: list[list[float]], shape: tuple[int, int]) -> Vectors:
    found = np.array(rows, dtype=np.float32)
    if found.shape != shape or not np.isfinite(found).all():
        raise ValueError(f"vectors of shape {found.shape} instead of {shape}")
    return found


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
