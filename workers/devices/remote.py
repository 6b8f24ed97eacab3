"""A server of somebody's own that speaks OpenAI's protocol, as a device: reached or not, and what it offers."""

from __future__ import annotations

import re
import time
from collections.abc import Collection

import msgspec

from reef.contracts.nodes import DeviceHealth
from workers.devices.base import Found, Opened

ASK_TIMEOUT_S = 3.0
ASK_EVERY_S = 30.0
"""The server may be somebody else's, and may count its requests."""
MODELS_NAMED_MAX = 5
_PASSWORD = re.compile(r"://[^/@]*@")


class RemoteConfig(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="remote"):
    """What is needed to reach one."""

    url: str
    api_key: str = ""


def discover(url: str) -> list[Found]:
    """The configured server; whether it answers is its health."""
    shown = _PASSWORD.sub("://***@", url)
    return [Found(kind="remote", name="remote", title="OpenAI-compatible server", path=shown)] if url else []


class Remote:
    """workers.devices.base.Kind of a server."""

    quarantines = False

    def __init__(self, config: RemoteConfig) -> None:
        self.config = config
        self._health = DeviceHealth()
        self._asked_at: float | None = None

    def identity(self) -> str:
        """A server has none."""
        return ""

    def health(self) -> DeviceHealth:
        """Whether it answers, and its models, as of at most ASK_EVERY_S ago."""
        if self._asked_at is None or time.monotonic() - self._asked_at >= ASK_EVERY_S:
            self._health = self._ask()
            self._asked_at = time.monotonic()
        return self._health

    def _ask(self) -> DeviceHealth:
        shown = _PASSWORD.sub("://***@", self.config.url)
        try:
            names = models(self.config)
        except _Silent as error:
            return DeviceHealth(link=shown, note=f"does not answer: {error}")
        more = f" and {len(names) - MODELS_NAMED_MAX} more" if len(names) > MODELS_NAMED_MAX else ""
        return DeviceHealth(link=shown, note=f"models: {', '.join(names[:MODELS_NAMED_MAX]) or 'none'}{more}")

    def open(self, remembered: str, taken: Collection[str]) -> Opened:
        """Its engine asks it for its models, and says what is wrong."""
        return Opened("remote")

    def confirm(self, opened: Opened) -> None:
        """There is nothing to hold."""


class _Silent(Exception):
    pass


def models(config: RemoteConfig) -> list[str]:
    """The models of the server. Raises _Silent with the reason."""
    import httpx

    if not config.url:
        raise _Silent("REEF_REMOTE_URL is not set")
    base = config.url.rstrip("/")
    base = base if base.endswith("/v1") else f"{base}/v1"
    headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
    try:
        answer = httpx.get(f"{base}/models", headers=headers, timeout=ASK_TIMEOUT_S, trust_env=False)
        return [str(one["id"]) for one in answer.raise_for_status().json()["data"]]
    except httpx.HTTPStatusError as error:
        raise _Silent(f"HTTP {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _Silent(str(error) or type(error).__name__) from None
    except (ValueError, KeyError, TypeError):
        raise _Silent("its answer is no list of models") from None
