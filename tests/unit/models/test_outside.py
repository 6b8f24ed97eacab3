"""Which addresses the API may have fetched: the hosts the operator names, and public ones only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from model_files import BadServer

from reef.models import ModelError, ModelStore
from reef.models.outside import Outside

HOSTS = "huggingface.co,*.hf.co"


def quiet(share: float, note: str) -> None:
    """No progress."""


@pytest.mark.parametrize(
    ("hosts", "url", "says"),
    [
        (HOSTS, "file:///etc/passwd", "Only http"),
        (HOSTS, "ftp://huggingface.co/x.gguf", "Only http"),
        (HOSTS, "http:///x.gguf", "Only http"),
        (HOSTS, "http://huggingface.co:99999/x", "no address"),
        (HOSTS, "https://me:pw@huggingface.co/x", "name and password"),
        (HOSTS, "https://evil.example/x.gguf", "REEF_MODEL_URL_HOSTS"),
        (HOSTS, "https://huggingface.co.evil.example/x", "Allowed are: huggingface.co"),
        (HOSTS, "https://xhf.co/x", "not fetched from"),
        (HOSTS, "http://127.0.0.1:6379/x", "not fetched from"),
        ("", "https://huggingface.co/x", "Allowed are: none"),
        ("127.0.0.1:8000", "http://127.0.0.1:8001/x", "not fetched from"),
    ],
)
def test_other_addresses_are_refused(hosts: str, url: str, says: str) -> None:
    """Other schemes, other hosts, names that only look alike, other ports of a named host."""
    with pytest.raises(ModelError, match=says):
        Outside(hosts, 0).check_url(url)


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (HOSTS, "https://huggingface.co/a/b.gguf"),
        (HOSTS, "https://HuggingFace.co/a/b.gguf"),
        (HOSTS, "https://cdn.us.hf.co/a"),
        ("*", "http://any.example/x"),
        ("10.0.0.5:8000", "http://10.0.0.5:8000/x.gguf"),
    ],
)
def test_named_hosts_are_allowed(hosts: str, url: str) -> None:
    """The very host, every host below one, any host, or a place with its port."""
    Outside(hosts, 0).check_url(url)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "0.0.0.0"])
def test_a_public_name_for_a_private_address_is_refused(address: str) -> None:
    """A name that leads into our own network is not asked, whoever registered it; a named port is."""
    request = httpx.Request("GET", "http://models.example/x.gguf")
    with pytest.raises(ModelError, match="no public address"):
        Outside("*", 0, lambda host, port: ["93.184.216.34", address]).check(request)
    Outside("*", 0, lambda host, port: ["93.184.216.34"]).check(request)
    Outside("models.example:80", 0, lambda host, port: [address]).check(request)


def test_a_redirect_to_another_host_is_refused(bad_server: BadServer, tmp_path: Path) -> None:
    """The check is made for each address on the way; nothing is kept of what was refused."""
    place = urlsplit(bad_server.url).netloc

    def redirect(handler: object) -> None:
        handler.send_response(302)  # type: ignore[attr-defined]
        handler.send_header("Location", "http://169.254.169.254/latest")  # type: ignore[attr-defined]
        handler.send_header("Content-Length", "0")  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]

    bad_server.answer = redirect  # type: ignore[method-assign]
    store = ModelStore(tmp_path, {})
    with pytest.raises(ModelError, match=r"not fetched from 169\.254\.169\.254"):
        store.pull("x", quiet, url=bad_server.url, guard=Outside(place, 0))
    assert not list(store.folder.glob(".x.url*"))


def test_the_answering_address_is_looked_at_again(
    bad_server: BadServer, tmp_path: Path, make_gguf: Callable[..., bytes]
) -> None:
    """A name that changes its address between the check and the request gets nothing into the store."""
    bad_server.body = make_gguf()
    url = bad_server.url.replace("127.0.0.1", "localhost")
    store = ModelStore(tmp_path, {})
    with pytest.raises(ModelError, match=r"localhost is at 127\.0\.0\.1"):
        store.pull("x", quiet, url=url, guard=Outside("localhost", 0, lambda host, port: ["93.184.216.34"]))
    assert not store.files()


def test_what_is_too_long_is_given_up(bad_server: BadServer, tmp_path: Path, make_gguf: Callable[..., bytes]) -> None:
    """A body longer than the limit ends the download, and takes no room afterwards."""
    bad_server.body = make_gguf(elements=10_000)
    store = ModelStore(tmp_path, {})
    with pytest.raises(ModelError, match="larger than 1000 bytes, the limit"):
        store.pull("x", quiet, url=bad_server.url, guard=Outside(urlsplit(bad_server.url).netloc, 1000))
    assert not list(store.folder.glob(".x.url*"))
