"""Uploading over HTTP as a script does it: an upload, its files by the tus protocol, its progress."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

TIMEOUT_S = 60.0
READ_BYTES = 256 * 1024
TRIES_MAX = 5
"""A connection that breaks is made again so often, and the file goes on where it ended."""
PAUSE_S = 0.5
PAGE = 500
TUS = {"Tus-Resumable": "1.0.0"}


class Answered(Exception):
    """The reef refused; the text says why."""


class FileRefused(Answered):
    """The reef refused this one file; others may be taken."""


class UploadClient:
    """The uploads of one reef. Raises Answered where it refuses, httpx.HTTPError where it does not answer."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> UploadClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def find_open(self, name: str, stores: list[str]) -> tuple[str, dict[str, dict[str, Any]]]:
        """An upload of that name that was not closed, and its documents by name; empty where there is none."""
        for upload in self._json("GET", "/uploads", params={"state": "open", "limit": 200})["uploads"]:
            if upload["name"] == name and upload["stores"] == stores:
                documents = self.documents(upload["id"])
                return upload["id"], {document["name"]: document for document in documents}
        return "", {}

    def create(self, name: str, stores: list[str]) -> str:
        """A new upload; gives its id."""
        upload_id: str = self._json("POST", "/uploads", json={"name": name, "stores": stores})["id"]
        return upload_id

    def close_upload(self, upload_id: str) -> None:
        """No more files will come."""
        self._json("POST", f"/uploads/{upload_id}/close")

    def upload(self, upload_id: str) -> dict[str, Any]:
        """An upload and how far it is."""
        return self._json("GET", f"/uploads/{upload_id}")

    def documents(self, upload_id: str, state: str = "") -> list[dict[str, Any]]:
        """All documents of an upload."""
        found: list[dict[str, Any]] = []
        while True:
            query = {"upload_id": upload_id, "state": state, "limit": PAGE, "offset": len(found)}
            page = self._json("GET", "/documents", params=query)
            found += page["documents"]
            if not page["documents"] or len(found) >= page["total"]:
                return found

    def begin(self, upload_id: str, name: str, size_bytes: int) -> str:
        """Announce a file; gives its document's id. Raises FileRefused where it is too large."""
        pairs = {"relativePath": name, "upload_id": upload_id}
        metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())
        headers = {**TUS, "Upload-Length": str(size_bytes), "Upload-Metadata": metadata}
        place: str = self._ask("POST", "/uploads/files", headers=headers).headers["Location"]
        return place.rpartition("/")[2]

    def offset(self, document_id: str) -> int:
        """How much of a file is there."""
        return int(self._ask("HEAD", f"/uploads/files/{document_id}", headers=TUS).headers["Upload-Offset"])

    def send(self, document_id: str, path: Path, offset: int) -> None:
        """Send a file from there on."""
        length = path.stat().st_size
        for attempt in range(TRIES_MAX):
            if offset >= length:
                return
            headers = {
                **TUS,
                "Content-Type": "application/offset+octet-stream",
                "Content-Length": str(length - offset),
                "Upload-Offset": str(offset),
            }
            try:
                body = _rest(path, offset)
                self._ask("PATCH", f"/uploads/files/{document_id}", headers=headers, content=body)
            except httpx.HTTPError:
                if attempt == TRIES_MAX - 1:
                    raise
                time.sleep(PAUSE_S * 2**attempt)
                offset = self.offset(document_id)
            else:
                return

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._ask(method, path, **options).json()
        return result

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self._http.request(method, path, **options)
        if answer.is_error:
            try:
                problem = answer.json()
                detail, code = problem["detail"], problem["code"]
            except (ValueError, KeyError):
                detail, code = f"status {answer.status_code}", ""
            raise FileRefused(detail) if code == "file_too_large" else Answered(detail)
        return answer


def _rest(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(READ_BYTES):
            yield block
