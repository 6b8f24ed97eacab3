"""`coral-reef ingest`: files and folders into the knowledge of a running reef, from scripts and by hand.

Resumable: an upload is known by its name and stores, so that the same command goes on where an interrupted one ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx

from cli.data_directory import DataDirectory
from cli.errors import Problem
from cli.launch import base_url
from cli.options import data_dir_option, settings_with
from cli.reef_uploads import Answered, FileRefused, UploadClient
from cli.show import Show, size, span

POLL_S = 0.25
REASONS_SHOWN_MAX = 50
ENDED = ("done", "cancelled")


class LocalFile(NamedTuple):
    """A file to be sent, and the name it gets."""

    path: Path
    name: str
    size_bytes: int


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--persona", help="Id of the persona that is to know them.")
@click.option("--shared", is_flag=True, help="Let all personas know them.")
@click.option("--wait/--no-wait", default=True, help="Wait until all are indexed (default).")
@click.option("--url", help="Address of the reef (default: the one that runs on this machine).")
@click.option("--key", envvar="REEF_API_KEY", help="API key, where the reef asks for one (REEF_API_KEY).")
@data_dir_option
def ingest(
    paths: tuple[Path, ...],
    persona: str | None,
    shared: bool,
    wait: bool,
    url: str | None,
    key: str | None,
    data_dir: object,
) -> None:
    """Upload files and folders; hidden files are left out. Exit status 1 when a file failed."""
    stores = [*(["shared"] if shared else []), *([persona] if persona else [])]
    if not stores:
        raise Problem("Where do they belong?", "Name a persona (--persona alice), or --shared for all of them.")
    files = list(find_files(paths))
    if not files:
        raise Problem("There is no file to upload.", "Hidden files and empty folders are left out.")
    address, found_key = _address(url, data_dir)
    with UploadClient(address, key or found_key) as client, Show() as show:
        try:
            upload, failed = _send_all(client, show, files, sorted(set(stores)), _upload_name(paths))
            failed += _wait(client, show, upload) if wait else []
        except Answered as error:
            raise Problem(f"{address} refused: {error}") from None
        except httpx.HTTPError as error:
            raise Problem(
                f"{address} does not answer: {error or type(error).__name__}",
                "Is it running (coral-reef status)? The same command goes on where this one ended.",
            ) from None
    _report(failed)


def find_files(paths: Sequence[Path]) -> Iterator[LocalFile]:
    """The files of these paths, folders with all that is in them, each named by its path below the one given."""
    for given in paths:
        if given.is_file():
            yield LocalFile(given, given.name, given.stat().st_size)
            continue
        base = given.resolve()
        for path in sorted(given.rglob("*")):
            inner = path.relative_to(given)
            if path.is_file() and not any(part.startswith(".") for part in inner.parts):
                yield LocalFile(path, f"{base.name}/{inner.as_posix()}", path.stat().st_size)


def _upload_name(paths: Sequence[Path]) -> str:
    return "ingest " + " ".join(str(path.resolve()) for path in paths)[-190:]


def _address(url: str | None, data_dir: object) -> tuple[str, str]:
    """Where the reef is, and the key that this machine has for it."""
    settings = settings_with(data_dir=data_dir)
    directory = DataDirectory(settings.data_dir)
    record = directory.read_run_file()
    own = record.url if record is not None and record.alive else base_url(settings)
    address = (url or own).rstrip("/")
    return address, directory.read_status_key() if address == own else ""


def _send_all(
    client: UploadClient, show: Show, files: list[LocalFile], stores: list[str], name: str
) -> tuple[str, list[dict[str, Any]]]:
    """Gives the upload's id, and the files that were refused before they were sent."""
    upload_id, known = client.find_open(name, stores)
    if upload_id:
        show.good(f"Going on with an interrupted upload: {len(known)} files are known already")
    else:
        upload_id, known = client.create(name, stores), {}
    total = sum(file.size_bytes for file in files) or 1
    sent = 0
    refused: list[dict[str, Any]] = []
    for number, file in enumerate(files, start=1):
        note = f"{number} of {len(files)} files, {size(sent)}"
        show.progress("uploading", sent / total, note)
        document = known.get(file.name)
        if document is None or document["size_bytes"] != file.size_bytes:
            try:
                document_id = client.begin(upload_id, file.name, file.size_bytes)
            except FileRefused as error:
                refused.append({"name": file.name, "reason": str(error)})
                continue
            client.send(document_id, file.path, 0)
        elif document["state"] == "receiving":
            client.send(document["id"], file.path, client.offset(document["id"]))
        sent += file.size_bytes
    client.close_upload(upload_id)
    show.done("uploading", f"{len(files) - len(refused)} files uploaded ({size(sent)})")
    return upload_id, refused


def _wait(client: UploadClient, show: Show, upload_id: str) -> list[dict[str, Any]]:
    """Wait for the end; gives the documents that failed."""
    began = time.monotonic()
    while True:
        upload = client.upload(upload_id)
        progress = upload["progress"]
        counts = progress["files"]
        settled = sum(counts.get(state, 0) for state in ("indexed", "failed", "cancelled", "replaced"))
        left = f", {span(progress['eta_s'])} left" if progress["eta_s"] is not None else ""
        note = f"{settled} of {progress['files_total']} files, {progress['chunks']} passages{left}"
        show.progress("indexing", settled / max(progress["files_total"], 1), note)
        if upload["state"] in ENDED:
            break
        time.sleep(POLL_S)
    took = f"{counts.get('indexed', 0)} files indexed in {span(time.monotonic() - began)}"
    replaced = progress["replaced"]
    show.done("indexing", f"{took}, in place of {replaced} earlier documents" if replaced else took)
    if upload["state"] == "cancelled":
        raise Problem("The upload was cancelled.")
    return client.documents(upload_id, state="failed")


def _report(failed: list[dict[str, Any]]) -> None:
    if not failed:
        return
    for document in failed[:REASONS_SHOWN_MAX]:
        click.echo(f"{document['name']}: {document['reason']}", err=True)
    more = f" ({len(failed) - REASONS_SHOWN_MAX} more)" if len(failed) > REASONS_SHOWN_MAX else ""
    raise Problem(f"{len(failed)} files failed{more}.")
