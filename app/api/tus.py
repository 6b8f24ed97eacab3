"""Resumable uploads: the tus 1.0 protocol (core, creation, expiration, termination). https://tus.io/protocols

A file is one tus upload; its document is there from its creation. Bytes go to disk as they come, and where they end is
read from the disk, so that nothing that arrived is sent again.
"""

from __future__ import annotations

import base64
import binascii
import time
from email.utils import formatdate
from typing import Any

from flask import request
from werkzeug.exceptions import UnsupportedMediaType

from app.api.uploads import check_pools, wanted_stores
from app.refusals import Refusal
from app.services import Services
from app.web import Answer, Call
from reef.knowledge.documents import Document, UnknownDocument, delete_document, get_document
from reef.knowledge.flow import RECEIVING_KEPT_S
from reef.knowledge.originals import TooLarge
from reef.knowledge.uploads import megabytes, too_long

VERSION = "1.0.0"
EXTENSIONS = "creation,expiration,termination"
MEDIA_TYPE = "application/offset+octet-stream"
READ_BYTES = 256 * 1024
METADATA_CHARS_MAX = 8_000
PATH = "/api/v1/uploads/files"


def options(call: Call) -> Answer:
    """Say which version and extensions of the tus protocol are spoken, and how long a file may be."""
    headers = {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(call.services.uploads.limits.file_bytes_max),
    }
    return _answer(204, headers)


def create(call: Call) -> Answer:
    """Begin a resumable file. `Upload-Metadata`: `filename` or `relativePath`, and `upload_id` or where it goes."""
    _check_version()
    services = call.services
    check_pools(services)
    metadata = _metadata()
    name = metadata.get("relativePath") or metadata.get("relative_path") or metadata.get("filename", "")
    length = _length(services, name)
    uploads = services.uploads
    upload_id = metadata.get("upload_id", "")
    own = not upload_id
    if own:
        named = [part.strip() for part in metadata.get("stores", "").split(",") if part.strip()]
        upload_id = uploads.create(name, wanted_stores(named, metadata.get("persona_id") or None)).id
    try:
        document_id = uploads.begin_file(upload_id, name, length)
    except BaseException:
        if own:
            uploads.cancel(upload_id)
        raise
    if own:
        uploads.close(upload_id)
    if length == 0:
        _finish(services, document_id)
    return _answer(201, {"Location": f"{PATH}/{document_id}"} | _expires(time.time()))


def head(call: Call, file_id: str) -> Answer:
    """Tell how much of a resumable file is here; HEAD is the tus protocol's, GET answers the same."""
    _check_version()
    document = _receiving(call.services, file_id)
    headers = {
        "Upload-Offset": str(_offset(call.services, document)),
        "Upload-Length": str(document.size_bytes),
        "Cache-Control": "no-store",
    }
    return _answer(200, headers | _expires(document.state_at))


def patch(call: Call, file_id: str) -> Answer:
    """Add bytes at `Upload-Offset`; with the last of them the file goes on its way."""
    _check_version()
    if request.mimetype != MEDIA_TYPE:
        raise UnsupportedMediaType(f"The body must have Content-Type: {MEDIA_TYPE}.")
    services = call.services
    document = _receiving(services, file_id)
    given = request.headers.get("Upload-Offset", "")
    if not (given.isascii() and given.isdigit()):
        raise Refusal(400, "bad_offset", "Bad offset", "Upload-Offset must be the number of bytes sent before.")
    if document.state != "receiving":
        offset = document.size_bytes
        _check_offset(int(given), offset)
        return _answer(204, {"Upload-Offset": str(offset)})
    offset = _receive(services, document, int(given))
    if offset == document.size_bytes:
        _finish(services, file_id)
    return _answer(204, {"Upload-Offset": str(offset)} | _expires(time.time()))


def delete(call: Call, file_id: str) -> Answer:
    """Take a resumable file back, with the document that it was to become."""
    _check_version()
    delete_document(call.services.uploads.flow, file_id)
    return _answer(204, {})


def _receive(services: Services, document: Document, given: int) -> int:
    """Append the body; gives where the file ends now. What came before a failure stays."""
    uploads = services.uploads
    request.max_content_length = document.size_bytes + 1  # werkzeug refuses a chunked body that reaches its limit
    with uploads.originals.receive(document.id, bytes_max=document.size_bytes) as incoming:
        _check_offset(given, incoming.offset)
        try:
            while block := request.stream.read(READ_BYTES):
                incoming.write(block)
        except TooLarge:
            detail = f"The file was to have {document.size_bytes} bytes; this body is longer than what was missing."
            raise Refusal(413, "too_long", "Too long", detail) from None
        finally:
            uploads.note_received(document.id, incoming.offset)
        return incoming.offset


def _finish(services: Services, document_id: str) -> None:
    originals = services.uploads.originals
    with originals.receive(document_id, bytes_max=0):
        pass  # a file without a byte is a file
    services.uploads.finish_file(document_id, originals.keep(document_id))


def _receiving(services: Services, file_id: str) -> Document:
    document = get_document(services.uploads.flow, file_id)
    if document.state in ("cancelled", "failed") and document.sha256 is None:
        raise UnknownDocument(file_id)
    return document


def _offset(services: Services, document: Document) -> int:
    if document.state != "receiving":
        return document.size_bytes
    return services.uploads.originals.received_bytes(document.id)


def _check_offset(given: int, offset: int) -> None:
    if given != offset:
        detail = f"The file ends at {offset}, not at {given}; ask with HEAD and go on from there."
        raise Refusal(409, "wrong_offset", "Wrong offset", detail, headers={"Upload-Offset": str(offset)} | _TUS)


def _check_version() -> None:
    if request.headers.get("Tus-Resumable") != VERSION:
        detail = f"Send Tus-Resumable: {VERSION}; other versions are not spoken."
        raise Refusal(412, "tus_version", "Unknown version", detail, headers={"Tus-Version": VERSION} | _TUS)


def _length(services: Services, name: str) -> int:
    given = request.headers.get("Upload-Length", "")
    if not (given.isascii() and given.isdigit()) or len(given) > 18:
        detail = "Upload-Length must be the size of the file in bytes; a length that follows later is not supported."
        raise Refusal(400, "bad_length", "Bad length", detail)
    most = services.uploads.limits.bytes_max(name)
    if int(given) > most:
        detail = f"{too_long(name, most)} This one has {megabytes(int(given))}."
        raise Refusal(413, "file_too_large", "File too large", detail, headers=_TUS)
    return int(given)


def _metadata() -> dict[str, str]:
    """`key base64, key base64 …` Raises Refusal."""
    found: dict[str, str] = {}
    given = request.headers.get("Upload-Metadata", "")
    try:
        for pair in filter(None, (part.strip() for part in given[:METADATA_CHARS_MAX].split(","))):
            key, _, value = pair.partition(" ")
            found[key] = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        detail = "Upload-Metadata must be pairs of a name and base64 of UTF-8, with commas between them."
        raise Refusal(400, "bad_metadata", "Bad metadata", detail) from None
    if any("\0" in value for value in found.values()):
        raise Refusal(400, "not_text", "Invalid request", "Upload-Metadata must not contain NUL.")
    return found


_TUS = {"Tus-Resumable": VERSION}


def _expires(since: float) -> dict[str, str]:
    return {"Upload-Expires": formatdate(since + RECEIVING_KEPT_S, usegmt=True)}


def _answer(status: int, headers: dict[str, Any]) -> Answer:
    return Answer(status=status, headers=_TUS | headers)
