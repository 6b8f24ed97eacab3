"""What the commands ask a running reef over HTTP: does it live, is it ready, how are its devices."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx

TIMEOUT_S = 3.0


class ReefClient:
    """The web process of one reef. Proxies of the environment are left out: it is on this machine."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def lives(self) -> bool:
        """Whether the web process answers at all."""
        return self._succeeds("/healthz")

    def is_ready(self) -> bool:
        """Whether a message would be answered now: /readyz is green."""
        return self._succeeds("/readyz")

    def unready_checks(self) -> dict[str, str]:
        """The checks of /readyz that are not green, with their state; empty when it does not answer."""
        try:
            checks = self._get("/readyz").json().get("checks") or {}
        except (httpx.HTTPError, ValueError):
            return {}
        return {name: str(state) for name, state in checks.items() if state != "ok"}

    def status(self) -> dict[str, Any]:
        """/api/v1/system/status. Raises httpx.HTTPError or ValueError."""
        result: dict[str, Any] = self._get("/api/v1/system/status").raise_for_status().json()
        return result

    def devices(self) -> list[dict[str, Any]]:
        """The reports of all devices; empty while the web process does not answer."""
        try:
            status = self.status()
        except (httpx.HTTPError, ValueError):
            return []
        return [*(device for pool in status["pools"] for device in pool["devices"]), *status["unplaced"]]

    def models(self) -> list[dict[str, Any]]:
        """/api/v1/system/models. Raises httpx.HTTPError or ValueError."""
        found: list[dict[str, Any]] = self._get("/api/v1/system/models").raise_for_status().json()["models"]
        return found

    def remove_model(self, name: str) -> str:
        """Take a model from the disk of the running reef; gives why not, or nothing. Raises httpx.HTTPError."""
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S, headers=self._headers) as client:
            answer = client.delete(f"{self.url}/api/v1/system/models/{quote(name, safe='')}")
        return "" if answer.is_success else str(answer.json()["detail"])

    def _succeeds(self, path: str) -> bool:
        try:
            return self._get(path).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _get(self, path: str) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S, headers=self._headers) as client:
            return client.get(self.url + path)
