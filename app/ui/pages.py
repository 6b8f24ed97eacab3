"""The pages a person opens: the chat, the documents, the whole reef, the login page and their static files.

Pages are shells: they hold no data of any person. Everything shown in them is fetched by their scripts from the API,
which is where access is checked. Nothing here reads the database or the broker.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flask import (
    Blueprint,
    Response,
    current_app,
    make_response,
    redirect,
    render_template,
    request,
    send_from_directory,
    url_for,
)
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from app import web
from app.guard import is_loopback, needs_key
from app.services import services
from app.ui.whereabouts import whereabouts
from reef.knowledge.formats import KINDS, extensions_of

STATIC_DIR: Final = Path(__file__).parent / "static"

KEY_COOKIE: Final = "reef_key"
KEY_COOKIE_MAX_AGE_S: Final = 30 * 24 * 3600
KEY_CHARS_MAX: Final = 256

ASSET_MAX_AGE_S: Final = 365 * 24 * 3600

ACCEPTS_KEY: Final = "coral_reef_accepts_key"
"""Name in `app.extensions` of the function that says whether an API key is valid; the login form asks it."""

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""No inline script or style, nothing from elsewhere: pictures in a reply cannot call home either."""

PAGE_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

PROGRAM_PATHS: Final = ("/api/", "/v1/", "/assets/")
"""What is asked for there is never a page."""

THEMES: Final = ("auto", "light", "dark")


def _static_tag() -> str:
    """A short digest of every static file, part of their URLs, so that browsers may keep them for ever."""
    digest = hashlib.sha256()
    for path in sorted(STATIC_DIR.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(STATIC_DIR)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_IMPORTS = re.compile(r"""^(?:import|export)\b[^;]*?from "(\.[^"]+)";""", re.MULTILINE)


def _modules_of(entry: str) -> list[str]:
    """Every ES module that this one needs, so that a page can ask for all at once instead of import by import."""
    found: list[str] = []
    waiting = [STATIC_DIR / entry]
    while waiting:
        module = waiting.pop()
        name = module.relative_to(STATIC_DIR).as_posix()
        if name not in found:
            found.append(name)
            waiting += [(module.parent / path).resolve() for path in _IMPORTS.findall(module.read_text("utf-8"))]
    return sorted(found)


ui = Blueprint("ui", __name__, template_folder="templates")
STATIC_TAG: Final = _static_tag()
SCRIPTS: Final = {
    page: _modules_of(f"js/{entry}")
    for page, entry in {
        "chat.html": "main.js",
        "documents.html": "documents/main.js",
        "document.html": "documents/viewer.js",
        "reef.html": "reef/main.js",
    }.items()
}
"""The modules of each page."""
FORMATS_SHOWN: Final = {
    label: [f".{extension}" for extension in extensions_of(kind)] for kind, (label, _families) in KINDS.items()
}
"""What can be read, by what people call it."""


def asset(path: str) -> str:
    """URL of a static file."""
    return url_for("ui.assets", tag=STATIC_TAG, path=path)


def _page(template: str, status: int = 200, **context: object) -> Response:
    theme = request.cookies.get("reef_theme", "auto")
    html = render_template(
        template,
        asset=asset,
        theme=theme if theme in THEMES else "auto",
        modules=SCRIPTS.get(template, []),
        **context,
    )
    response = make_response(html, status)
    response.headers.update(PAGE_HEADERS)
    return response


@ui.get("/")
@ui.get("/chat/<session_id>", endpoint="chat_session")
def chat(session_id: str = "") -> Response:
    """The chat page; the session in its address is read by the page's script."""
    return _page("chat.html", whereabouts=_told("you write"))


@ui.get("/documents")
def documents() -> Response:
    """Upload, watch, find and remove documents."""
    return _page("documents.html", kinds=KINDS, formats=FORMATS_SHOWN, whereabouts=_told("you add"))


@ui.get("/documents/<document_id>")
def document(document_id: str) -> Response:
    """One document with its passages; which one is read by the page's script, as is `?chunk=`, the passage to show."""
    return _page("document.html")


@ui.get("/reef")
def reef() -> Response:
    """Devices, queues, jobs, models and the last hour, live, and what an operator may do to them."""
    return _page("reef.html")


@ui.get("/status")
def status() -> BaseResponse:
    """Where the page of the reef was once."""
    return redirect(url_for("ui.reef"), code=308)


@ui.app_errorhandler(404)
def nowhere(error: HTTPException) -> Response:
    """An address that leads nowhere: words and a way home for a browser, a problem for a program."""
    words = request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html"
    if not words or request.path.startswith(PROGRAM_PATHS):
        return web.answer_failure(error)
    return _page("nowhere.html", 404, path=request.path)


@ui.get("/login")
def login() -> Response:
    """Where a browser is sent that has no valid API key."""
    return _login(_local_path(request.args.get("next", "")))


@ui.post("/login")
def login_with_key() -> BaseResponse:
    """Keep the key in a cookie that scripts cannot read, if it is valid."""
    key = request.form.get("key", "").strip()
    destination = _local_path(request.form.get("next", ""))
    if not key or len(key) > KEY_CHARS_MAX or not _accepts_key()(key):
        error = "This key is not valid. Keys are printed by “coral-reef up --host …” when it first makes one."
        return _login(destination, error, status=403)
    response = redirect(destination, code=303)
    response.set_cookie(
        KEY_COOKIE,
        key,
        max_age=KEY_COOKIE_MAX_AGE_S,
        httponly=True,
        secure=request.is_secure,
        samesite="Strict",
        path="/",
    )
    return response


@ui.post("/logout")
def logout() -> BaseResponse:
    """Forget the key."""
    response = redirect(url_for("ui.login"), code=303)
    response.delete_cookie(KEY_COOKIE, path="/", httponly=True, samesite="Strict")
    return response


@ui.get("/assets/<tag>/<path:path>")
def assets(tag: str, path: str) -> Response:
    """A static file. Its address changes with any file's content, so it never needs to be asked for again."""
    response = send_from_directory(STATIC_DIR, path, max_age=ASSET_MAX_AGE_S if tag == STATIC_TAG else 0)
    response.headers["X-Content-Type-Options"] = "nosniff"
    if tag == STATIC_TAG:
        response.cache_control.immutable = True
    return response


@ui.get("/favicon.ico")
def favicon() -> Response:
    """Browsers ask for this address by themselves."""
    return send_from_directory(STATIC_DIR, "img/favicon.svg", max_age=ASSET_MAX_AGE_S)


def _login(destination: str, error: str = "", status: int = 200) -> Response:
    settings = services().settings
    keyless = not needs_key(settings, settings.host)
    shared = not is_loopback(settings.host)
    return _page("login.html", status, next=destination, error=error, keyless=keyless, shared=shared)


def _told(what: str) -> str:
    """Who gets what is written into this page."""
    reef = services()
    return whereabouts(reef.settings, reef.topology).told(what)


def _accepts_key() -> Callable[[str], bool]:
    check: Callable[[str], bool] | None = current_app.extensions.get(ACCEPTS_KEY)
    return check or _accept_none


def _accept_none(key: str) -> bool:
    """A reef that asks for no key (bound to loopback only) knows none."""
    return False


def _local_path(text: str) -> str:
    """A path of this site to go to after login; anything else becomes the chat page."""
    local = text.startswith("/") and not text.startswith(("//", "/\\")) and "\\" not in text
    return text if local and text.isprintable() else "/"
