"""Whether the vector store lives, asked with nothing but the standard library: the front door asks this too."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from urllib.parse import unquote, urlsplit

TIMEOUT_S = 1.0


def beats(url: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether a Chroma server answers at this URL."""
    return why_silent(url, timeout_s) == ""


def why_silent(url: str, timeout_s: float = TIMEOUT_S) -> str:
    """Why no Chroma server answers there; empty where one does."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "it is no http:// or https:// URL"
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    request = urllib.request.Request(f"{address}/api/v2/heartbeat")  # noqa: S310 - the scheme was looked at
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(login).decode()}")
    # without the proxies of the environment: it is a server of ours
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            beat = json.loads(answer.read(1000))
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or error or type(error).__name__)
    return "" if "nanosecond heartbeat" in beat else "what answers is no Chroma server"
