"""Who may come in: the API key beyond loopback, the Host and Origin checks, the headers every answer carries.

On loopback no key is asked for, so a page of another site must not be able to reach us through the user's browser:
the Host must be ours (no DNS rebinding) and a request that changes something must not come from another origin.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections import OrderedDict
from urllib.parse import urlsplit

import msgspec
from flask import Flask, Response, g, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from app.refusals import Refusal
from app.services import Services
from reef.access import verify_key
from reef.records.database import Database
from reef.settings import Settings

KEY_COOKIE = "reef_key"
KEY_COOKIE_MAX_AGE_S = 30 * 24 * 3600
ACCEPTS_KEY = "coral_reef_accepts_key"
"""Name in `app.extensions` of the function that says whether a key is valid; the login page asks it."""
REMEMBERED_MAX = 256
REMEMBERED_S = 10.0
"""A revoked key works this much longer at most."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_ENDPOINTS = frozenset(
    {
        "system_healthz",
        "system_readyz",
        "system_login",
        "ui.login",
        "ui.login_with_key",
        "ui.assets",
        "ui.favicon",
        "ui.logout",
    }
)
"""What needs no key."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, to be kept in a cookie that scripts cannot read."""

    key: str


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound there."""
    return host in LOOPBACK_NAMES or host.startswith("127.")


def needs_key(settings: Settings, host: str) -> bool:
    """Whether who comes to a port bound there must show an API key."""
    return settings.require_api_key or not is_loopback(host)


def key_needed() -> Refusal:
    """The answer to who shows no valid API key."""
    return Refusal(
        401,
        "key_needed",
        "API key needed",
        "Send an API key as `Authorization: Bearer KEY`; `coral-reef keys create NAME` makes one.",
        headers={"WWW-Authenticate": 'Bearer realm="coral-reef"'},
    )


def bearer_of(authorization: str) -> str:
    """The key in an Authorization header; empty where there is none."""
    scheme, _, bearer = authorization.partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else ""


class Keys:
    """Checks API keys and remembers good ones for a moment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._good: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def accepts(self, key: str) -> bool:
        """Whether this is a valid key. Raises sqlalchemy.exc.SQLAlchemyError."""
        if self.remembers(key):
            return True
        now = time.monotonic()
        if verify_key(self._database, key) is None:
            return False
        with self._lock:
            self._good[key] = now + REMEMBERED_S
            self._good.move_to_end(key)
            while len(self._good) > REMEMBERED_MAX:
                self._good.popitem(last=False)
        return True

    def remembers(self, key: str) -> bool:
        """Whether this key was good a moment ago; asks nobody."""
        with self._lock:
            return self._good.get(key, 0.0) > time.monotonic()


class Guard:
    """Lets requests in or not."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self.keys = Keys(services.database)
        self.needs_key = needs_key(settings, settings.host)
        origins = [origin.strip().rstrip("/") for origin in settings.allowed_origins.split(",") if origin.strip()]
        self._origins = frozenset(origins)
        self._hosts = LOOPBACK_NAMES | {settings.host} | {urlsplit(origin).hostname or "" for origin in origins}

    def install(self, app: Flask) -> None:
        """Check every request of this application."""
        app.extensions[ACCEPTS_KEY] = self.keys.accepts if self.needs_key else (lambda _key: False)
        app.before_request(self.check)
        app.after_request(_add_headers)

    def check(self) -> BaseResponse | None:
        """Refuse what may not come in. Raises Refusal."""
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
        g.began_s = time.monotonic()
        if not self.needs_key:
            self._check_host()
        self._check_origin()
        g.authorised = not self.needs_key or self._has_key()
        if g.authorised or request.endpoint in OPEN_ENDPOINTS:
            return None
        if request.method == "GET" and (request.endpoint or "").startswith("ui."):
            return redirect(f"/login?next={request.path}", code=303)
        raise key_needed()

    def _has_key(self) -> bool:
        key = bearer_of(request.headers.get("Authorization", "")) or request.cookies.get(KEY_COOKIE, "")
        return bool(key) and self.keys.accepts(key)

    def _check_host(self) -> None:
        host = urlsplit(f"//{request.host}").hostname or ""
        if host not in self._hosts and not host.endswith(".localhost"):
            raise Refusal(
                403,
                "foreign_host",
                "Unknown host",
                f"This server answers as localhost, not as {host!r}. Behind a proxy, name its address in "
                "REEF_ALLOWED_ORIGINS.",
            )

    def _check_origin(self) -> None:
        """A browser says where a request comes from; programs do not, and need not."""
        upgrades = request.headers.get("Upgrade", "").lower() == "websocket"
        if request.method in SAFE_METHODS and not upgrades:
            return
        origin = request.headers.get("Origin")
        if origin is None:
            foreign = request.headers.get("Sec-Fetch-Site", "none") in ("cross-site", "same-site")
        else:
            foreign = urlsplit(origin).netloc != request.host and origin not in self._origins
        if foreign:
            raise Refusal(
                403,
                "foreign_origin",
                "Foreign origin",
                "This request comes from a page of another site. REEF_ALLOWED_ORIGINS can allow its origin.",
            )


def _add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-ID"] = g.get("request_id", "")
    return response
