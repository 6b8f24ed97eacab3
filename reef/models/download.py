"""Fetching one file over HTTP with resume. Writes only the `.part` file it is given; the caller checks and renames.

Going on needs a word for the version of the file that the beginning is of: its ETag, or else the time of its last
change. From a server that has neither nothing is kept, because nobody could use it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Protocol

import httpx
import msgspec

from reef.models.errors import Interrupted, ModelError
from reef.models.formats import FIRST_BYTES, FORMAT_NAMES, begins_right

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
FAILURES_MAX = 6
"""Tries in a row that bring not a single new byte."""
BACKOFF_MAX_S = 10.0
LAST_MODIFIED_AGE_S = 1.0
"""RFC 9110, 8.8.2.2: a file that changed twice in the second of its date would have one date for two versions."""

_STATED_HASH = re.compile(r'^(?:W/)?"?([0-9a-f]{64})"?$')


class _State(msgspec.Struct):
    """What is known about the `.part` file: which version of which resource it is the beginning of."""

    url: str
    validator: str = msgspec.field(default="", name="etag")
    """For If-Range: a strong ETag, or a Last-Modified; empty where the server tells neither."""
    size_bytes: int | None = None
    stated_sha256: str | None = None


class Guard(Protocol):
    """Says which addresses may be asked: reef/models/outside.py."""

    size_max_bytes: int

    def check(self, request: httpx.Request) -> None:
        """Called before every request, those that follow a redirect too. Raises ModelError."""

    def check_peer(self, response: httpx.Response) -> None:
        """Called before the first byte of an answer is used. Raises ModelError."""


class _Again(Exception):
    """The connection failed; what was received is kept."""


class Download:
    """One file on its way."""

    def __init__(
        self,
        url: str,
        part: Path,
        size_bytes: int | None,
        received: Callable[[int, int | None], None],
        *,
        pause: Callable[[float], None] = time.sleep,
        suffix: str = ".gguf",
        guard: Guard | None = None,
        room: Callable[[int], None] = lambda _more: None,
    ) -> None:
        """`size_bytes` is the exact size where it is known; `received` gets the bytes so far and the size.

        `room` is told how many bytes are still to come before the first of them, and may refuse them by ModelError.
        """
        self.part, self._received, self._pause = part, received, pause
        self._expected, self._suffix = size_bytes, suffix
        self._guard, self._room = guard, room
        self._state_file = part.with_name(part.name + ".json")
        self._state = self._read_state(url)

    def run(self) -> str | None:
        """Fetch it; gives the SHA-256 the server states for it, if any. Raises ModelError.

        However it ends, no beginning stays that could not be gone on with.
        """
        try:
            return self._run()
        except BaseException:
            if not self._state.validator:
                self._forget()
            raise

    def _run(self) -> str | None:
        failures = 0
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        hooks = [self._guard.check] if self._guard else []
        with httpx.Client(follow_redirects=True, timeout=timeout, event_hooks={"request": hooks}) as client:
            while True:
                before = self._have()
                try:
                    self._try(client)
                except _Again as error:
                    failures = 0 if self._have() > before else failures + 1
                    if failures >= FAILURES_MAX:
                        raise Interrupted(f"{self._state.url} cannot be fetched: {error}. {self._kept()}") from error
                    log.info("download interrupted (%s), going on from byte %d", error, self._have())
                    self._pause(min(BACKOFF_MAX_S, 0.5 * 2**failures))
                else:
                    self._state_file.unlink(missing_ok=True)
                    return self._state.stated_sha256

    def _kept(self) -> str:
        if self._state.validator:
            return "What has arrived is kept; give the command again to go on from there."
        return "The server does not say which version of the file it has, so nothing is kept; the next try begins anew."

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self._state_file.unlink(missing_ok=True)

    def _try(self, client: httpx.Client) -> None:
        have = self._have()
        headers = {"Accept-Encoding": "identity"}
        if have and self._state.validator:
            headers |= {"Range": f"bytes={have}-", "If-Range": self._state.validator}
        try:
            with client.stream("GET", self._state.url, headers=headers) as response:
                if self._guard:
                    self._guard.check_peer(response)
                self._receive(response, have)
        except httpx.TransportError as error:
            raise _Again(str(error) or type(error).__name__) from error

    def _receive(self, response: httpx.Response, have: int) -> None:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.part.unlink(missing_ok=True)
            raise _Again("the server refuses to go on; starting over")
        if response.status_code >= 500 or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise _Again(f"the server answers {response.status_code}")
        if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise ModelError(
                f"{self._state.url} answers {response.status_code} {response.reason_phrase}. "
                "Check the address, or whether the model asks for a login."
            )
        start = _range_start(response)
        if start not in (0, have):
            raise ModelError(f"{self._state.url} answered with another part of the file than was asked for.")
        if have and not start:
            self.part.unlink(missing_ok=True)  # room is reckoned without it
        self._note(response, start)
        self._room((self._expected or self._state.size_bytes or 0) - start)
        with self.part.open("ab" if start else "wb") as file:
            got = self._write(response, file, start)
        if self._state.size_bytes is not None and got < self._state.size_bytes:
            raise _Again(f"the connection ended after {got} of {self._state.size_bytes} bytes")

    def _write(self, response: httpx.Response, file: IO[bytes], got: int) -> int:
        first = b"" if got == 0 else None
        for data in response.iter_raw():  # unbuffered: what came before a cut counts
            if first is not None and len(first) < FIRST_BYTES:
                first = (first + data)[:FIRST_BYTES]
                if not begins_right(first, self._suffix):
                    name = FORMAT_NAMES[self._suffix]
                    raise ModelError(f"{self._state.url} is not a model in {name} format (a web page, perhaps).")
            file.write(data)
            got += len(data)
            if self._expected is not None and got > self._expected:
                raise ModelError(f"{self._state.url} is larger than the {self._expected} bytes it should have.")
            if self._guard and got > self._guard.size_max_bytes:
                raise ModelError(f"{self._state.url} is larger than {self._guard.size_max_bytes} bytes, the limit.")
            self._received(got, self._expected or self._state.size_bytes)
        return got

    def _note(self, response: httpx.Response, start: int) -> None:
        length = response.headers.get("content-length", "")
        for answer in [*response.history, response]:  # hubs state the file's hash where they redirect from
            stated = _STATED_HASH.match(answer.headers.get("x-linked-etag", ""))
            if stated:
                self._state.stated_sha256 = stated.group(1)
        self._state.validator = _validator(response.headers)
        self._state.size_bytes = start + int(length) if length.isdigit() else None
        self._state_file.write_bytes(msgspec.json.encode(self._state))

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _read_state(self, url: str) -> _State:
        try:
            state = msgspec.json.decode(self._state_file.read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError):
            state = _State(url="")
        if state.url == url and state.validator:
            return state
        self._forget()  # the beginning of something else, or of an unknown version
        return _State(url=url)


def _validator(headers: httpx.Headers) -> str:
    """What If-Range may name: a strong ETag, or a Last-Modified that is old enough to be one version's only."""
    etag, changed = str(headers.get("etag", "")), str(headers.get("last-modified", ""))
    if etag and not etag.startswith("W/"):
        return etag
    try:
        age = parsedate_to_datetime(headers.get("date", "")) - parsedate_to_datetime(changed)
    except (TypeError, ValueError):
        return ""
    return changed if age.total_seconds() >= LAST_MODIFIED_AGE_S else ""


def _range_start(response: httpx.Response) -> int:
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    return int(match.group(1)) if match else -1
