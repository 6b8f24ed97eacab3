"""Which addresses models may be fetched from when the wish comes over the API: somebody else's URL, our network.

Without this, whoever may use the API could have this machine ask its neighbours, or read its own files. Allowed are
http and https to the hosts of REEF_MODEL_URL_HOSTS, redirects included:

    huggingface.co      this host; `*.hf.co` every host below that one. Their addresses must be public ones
    10.0.0.5:8000       a host and port that the operator names: its address may be a private one
    *                   every public host

The connection that answered is looked at again: a name may lead elsewhere between the check and the request.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reef.models.errors import ModelError

if TYPE_CHECKING:
    import httpx  # its client would cost the start of every process 0.3 s

URL_CHARS_MAX = 2000
DEFAULT_SIZE_MAX_BYTES = 200_000_000_000
"""Longest model that is believed where the disk cache has no limit."""
PORTS = {"http": 80, "https": 443}

Lookup = Callable[[str, int], Sequence[str]]


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises OSError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Outside:
    """reef.models.download.Guard for addresses that came over the API."""

    def __init__(self, hosts: str, size_max_bytes: int, lookup: Lookup = addresses_of) -> None:
        """`hosts` is the setting, `size_max_bytes` the longest file (0: the default)."""
        self.size_max_bytes = size_max_bytes or DEFAULT_SIZE_MAX_BYTES
        self._hosts = [host.strip().lower() for host in hosts.split(",") if host.strip()]
        self._lookup = lookup

    def check_url(self, url: str) -> None:
        """Whether this address may be asked, without asking anybody. Raises ModelError."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise ModelError(f"This is no address: {error}.") from None
        if parts.scheme not in PORTS or not host or len(url) > URL_CHARS_MAX:
            raise ModelError("Only http:// and https:// addresses can be fetched.")
        if parts.username or parts.password:
            raise ModelError("An address with a name and password in it is not fetched.")
        if not self._allowed(host, port):
            known = ", ".join(self._hosts) or "none"
            raise ModelError(
                f"Models are not fetched from {host} over the API. Allowed are: {known} (REEF_MODEL_URL_HOSTS). "
                "On the machine itself, `coral-reef models pull URL` fetches from anywhere."
            )

    def check(self, request: httpx.Request) -> None:
        """Before every request, those that follow a redirect too. Raises ModelError."""
        self.check_url(str(request.url))
        host, port = request.url.host.lower(), request.url.port or PORTS[request.url.scheme]
        if self._named(host, port):
            return
        try:
            found = self._lookup(host, port)
        except OSError as error:
            raise ModelError(f"{host} cannot be found: {error.strerror or error}.") from None
        for address in found:
            _check_public(host, address)

    def check_peer(self, response: httpx.Response) -> None:
        """Whether the answer comes from where it was asked for. Raises ModelError."""
        url = response.request.url
        if self._named(url.host.lower(), url.port or PORTS[url.scheme]):
            return
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if peer:
            _check_public(url.host, str(peer[0]))

    def _allowed(self, host: str, port: int) -> bool:
        return self._named(host, port) or any(
            fnmatch.fnmatchcase(host, pattern) for pattern in self._hosts if ":" not in pattern
        )

    def _named(self, host: str, port: int) -> bool:
        """Whether the operator named this very place, port included: then its address is the operator's business."""
        return f"{host}:{port}" in self._hosts


def _check_public(host: str, address: str) -> None:
    if not ipaddress.ip_address(address.partition("%")[0]).is_global:
        raise ModelError(
            f"{host} is at {address}, which is no public address, so it is not asked. "
            "To allow it, name it with its port in REEF_MODEL_URL_HOSTS."
        )
