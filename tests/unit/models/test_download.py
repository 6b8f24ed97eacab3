"""Fetching over HTTP from servers that cut, ignore, change and lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from model_files import BadServer

from reef.models import ModelError
from reef.models.download import FAILURES_MAX, Download

Make = Callable[..., bytes]


def fetch(server: BadServer, part: Path, size: int | None = None) -> str | None:
    """Fetch what the server has, without pauses."""
    return Download(server.url, part, size, lambda done, whole: None, pause=lambda seconds: None).run()


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / ".tiny.part"


def test_cut_connections_are_resumed(bad_server: BadServer, part: Path, make_gguf: Make) -> None:
    """Three breaks in one download: it goes on from each and the file is whole; nothing is left beside it."""
    bad_server.body = make_gguf(elements=100_000)
    bad_server.cut_after = [1000, 50_000, 7]
    fetch(bad_server, part)
    assert part.read_bytes() == bad_server.body
    assert bad_server.ranges == [None, "bytes=1000-", "bytes=51000-", "bytes=51007-"]
    assert list(part.parent.iterdir()) == [part]


def test_next_process_goes_on(bad_server: BadServer, part: Path, make_gguf: Make) -> None:
    """What arrived before giving up is kept and used by the next try."""
    bad_server.body = make_gguf(elements=10_000)
    bad_server.cut_after = [20_000]
    bad_server.status = []
    original, calls = bad_server.answer, iter(range(100))

    def once_then_down(handler: object) -> None:
        if next(calls) == 1:
            bad_server.status = [503] * FAILURES_MAX
        original(handler)  # type: ignore[arg-type]

    bad_server.answer = once_then_down  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="kept"):
        fetch(bad_server, part)
    assert part.stat().st_size == 20_000
    fetch(bad_server, part)
    assert part.read_bytes() == bad_server.body
    assert bad_server.ranges[-1] == "bytes=20000-"


def test_server_without_ranges(bad_server: BadServer, part: Path, make_gguf: Make) -> None:
    """A server that ignores Range sends all again; the file is not doubled."""
    bad_server.body = make_gguf(elements=10_000)
    bad_server.cut_after = [9_000]
    bad_server.ignore_range = True
    fetch(bad_server, part)
    assert part.read_bytes() == bad_server.body


def test_changed_file_is_started_over(bad_server: BadServer, part: Path, make_gguf: Make) -> None:
    """When the file on the server changed between the tries, no mixture of the two comes out."""
    bad_server.body = make_gguf(elements=10_000)
    bad_server.cut_after = [9_000]
    original, calls = bad_server.answer, iter(range(100))

    def changed_after_first(handler: object) -> None:
        if next(calls) == 1:
            bad_server.body, bad_server.etag = make_gguf({"x.new": 1}, elements=12_000), '"two"'
        original(handler)  # type: ignore[arg-type]

    bad_server.answer = changed_after_first  # type: ignore[method-assign]
    fetch(bad_server, part)
    assert part.read_bytes() == bad_server.body


def test_no_etag_means_no_resume(bad_server: BadServer, part: Path, make_gguf: Make) -> None:
    """Without an ETag nobody knows whether the rest belongs to the beginning: it is fetched anew."""
    bad_server.body = make_gguf(elements=10_000)
    bad_server.etag = None
    bad_server.cut_after = [9_000]
    fetch(bad_server, part)
    assert part.read_bytes() == bad_server.body
    assert bad_server.ranges == [None, None]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_the_time_of_the_last_change_will_do(
    bad_server: BadServer, part: Path, make_gguf: Make, etag: str | None
) -> None:
    """Without a strong ETag the download goes on by Last-Modified, where that is older than the answer."""
    bad_server.body, changed = make_gguf(elements=10_000), "Wed, 01 Jul 2020 00:00:00 GMT"
    bad_server.etag, bad_server.last_modified = etag, changed
    bad_server.cut_after = [9_000]
    fetch(bad_server, part)
    assert part.read_bytes() == bad_server.body
    assert bad_server.ranges == [None, "bytes=9000-"]


@pytest.mark.parametrize("changed", [None, "some day", "Tue, 01 Jul 2200 00:00:00 GMT"])
def test_what_could_not_be_gone_on_with_is_not_kept(
    bad_server: BadServer, part: Path, make_gguf: Make, changed: str | None
) -> None:
    """A stop, or a server that is gone, leaves nothing behind where nobody knows which version the beginning is of."""
    bad_server.body, bad_server.etag, bad_server.last_modified = make_gguf(elements=10_000), None, changed

    def stop(done: int, whole: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Download(bad_server.url, part, None, stop).run()
    assert list(part.parent.iterdir()) == []
    bad_server.cut_after, answers = [9_000], iter([[], *[[503]] * FAILURES_MAX])
    original = bad_server.answer

    def once_then_down(handler: object) -> None:
        bad_server.status = list(next(answers))
        original(handler)  # type: ignore[arg-type]

    bad_server.answer = once_then_down  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="nothing is kept; the next try begins anew"):
        fetch(bad_server, part)
    assert list(part.parent.iterdir()) == []


def test_web_page_ends_it_at_once(bad_server: BadServer, part: Path) -> None:
    """A login page in place of the model is recognised by its first bytes."""
    bad_server.body = b"<!DOCTYPE html>" + b" " * 5_000_000
    with pytest.raises(ModelError, match="not a model in GGUF format"):
        fetch(bad_server, part)


def test_larger_than_it_should_be(bad_server: BadServer, part: Path, make_gguf: Make) -> None:
    """A body longer than the catalogue says ends the download instead of filling the disk."""
    bad_server.body = make_gguf(elements=10_000)
    with pytest.raises(ModelError, match="larger than"):
        fetch(bad_server, part, size=1000)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_are_told(bad_server: BadServer, part: Path, status: int) -> None:
    """An address that will never work is not tried again."""
    bad_server.status = [status]
    with pytest.raises(ModelError, match=str(status)):
        fetch(bad_server, part)
    assert len(bad_server.ranges) == 1


def test_passing_trouble_is_waited_out(bad_server: BadServer, part: Path, make_gguf: Make) -> None:
    """429 and 503 are followed by another try."""
    bad_server.body = make_gguf()
    bad_server.status = [503, 429]
    fetch(bad_server, part)
    assert part.read_bytes() == bad_server.body


def test_nobody_there(part: Path) -> None:
    """A closed port ends with a sentence that says so, after a bounded number of tries."""
    pauses: list[float] = []
    with pytest.raises(ModelError, match="cannot be fetched"):
        Download("http://127.0.0.1:9/x.gguf", part, None, lambda *_: None, pause=pauses.append).run()
    assert len(pauses) == FAILURES_MAX - 1


def test_hash_a_hub_states(bad_server: BadServer, part: Path, make_gguf: Make) -> None:
    """The hash in a hub's X-Linked-ETag is handed on for checking."""
    bad_server.body = make_gguf()
    bad_server.headers = {"X-Linked-ETag": f'"{"ab" * 32}"'}
    assert fetch(bad_server, part) == "ab" * 32
