"""Uploads: making one, sending its files in one request, watching, pausing, cancelling, trying again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
from flask import Response, request

from app.api.knowledge_shapes import (
    AcceptedFile,
    AcceptedFiles,
    Progress,
    UploadDraft,
    UploadLimits,
    UploadList,
    UploadQuery,
    UploadView,
)
from app.api.shapes import EventsQuery
from app.items import Item
from app.listener import Closed, Hopeless
from app.multipart import receive_form
from app.receiving import ReceivedFile
from app.refusals import Refusal
from app.services import Services
from app.sse import HEADERS, HEARTBEAT_S, MEDIA_TYPE, RETRY_MS, event_lines, open_listener, resume_after
from app.web import Answer, Call
from reef.contracts.events import UploadProgress
from reef.contracts.jobs import EmbedJob, ParseJob
from reef.conversation.turns import PoolClosed
from reef.knowledge.flow import RECEIVING_KEPT_S
from reef.knowledge.model import SHARED_STORE, UPLOAD_ENDED
from reef.knowledge.progress import measure
from reef.knowledge.uploads import Upload
from reef.placement.serving import is_served

LINGER_S = 0.3
"""Who begins to watch an upload that has ended waits this long for the last changes of its files."""


def create(call: Call) -> Answer:
    """Start an upload, whose files follow one by one (resumable) or in requests of many; close it after the last."""
    draft: UploadDraft = call.body
    check_pools(call.services)
    upload = call.services.uploads.create(draft.name, wanted_stores(draft.stores, draft.persona_id))
    return Answer(status=201, body=view(call.services, upload), headers={"Location": f"/api/v1/uploads/{upload.id}"})


def list_all(call: Call) -> UploadList:
    """List uploads, newest first."""
    query: UploadQuery = call.query
    found = call.services.uploads.recent(query.state, query.limit)
    return UploadList([view(call.services, upload) for upload in found])


def get(call: Call, upload_id: str) -> UploadView:
    """Read an upload and how far it is."""
    return view(call.services, call.services.uploads.get(upload_id))


def limits(call: Call) -> UploadLimits:
    """What may be uploaded."""
    return UploadLimits(**msgspec.structs.asdict(call.services.uploads.limits), received_file_kept_s=RECEIVING_KEPT_S)


def close(call: Call, upload_id: str) -> UploadView:
    """Say that no more files will come; it is done as soon as those that came are."""
    return view(call.services, call.services.uploads.close(upload_id))


def pause(call: Call, upload_id: str) -> UploadView:
    """Begin nothing more of it until it is resumed."""
    return view(call.services, call.services.uploads.pause(upload_id))


def resume(call: Call, upload_id: str) -> UploadView:
    """Go on with a paused upload."""
    return view(call.services, call.services.uploads.resume(upload_id))


def cancel(call: Call, upload_id: str) -> UploadView:
    """End what is not indexed yet; what is indexed stays."""
    return view(call.services, call.services.uploads.cancel(upload_id))


def retry(call: Call, upload_id: str) -> UploadView:
    """Try its failed files again whose reason may pass (`retryable`)."""
    return view(call.services, call.services.uploads.retry(upload_id))


def send(call: Call) -> Answer:
    """Upload documents: any number of files as multipart/form-data, a zip as its files.

    Fields: `stores` (repeated or comma-separated) or `persona_id`, where they go (default: shared); `paths`, one for
    each file, their relative paths; `upload_id`, an open upload to add them to.
    """
    services = call.services
    check_pools(services)
    allowed = services.uploads.limits
    request.max_content_length = allowed.upload_bytes_max
    services.uploads.originals.check_room(request.content_length or 0)
    with receive_form(services.uploads.originals, allowed) as form:
        if not form.files:
            raise Refusal(400, "no_files", "No files", "The body has no file; send at least one, e.g. -F file=@name.")
        upload_id = form.fields.get("upload_id", "")
        if upload_id:
            upload = services.uploads.get(upload_id)
        else:
            named = [part.strip() for value in form.fields.getlist("stores") for part in value.split(",")]
            stores = wanted_stores([name for name in named if name], form.fields.get("persona_id") or None)
            upload = services.uploads.create(form.fields.get("name", form.files[0].name), stores)
        body = take_files(services, upload, form.files, close_after=not upload_id)
    return Answer(status=202, body=body, headers={"Location": f"/api/v1/uploads/{upload.id}"})


def take_files(services: Services, upload: Upload, files: list[ReceivedFile], *, close_after: bool) -> AcceptedFiles:
    """Write files that were received down; `close_after`: no more will come. Raises what Uploads.add_kept raises."""
    try:
        added = services.uploads.add_kept(upload.id, [(file.name, file.kept) for file in files])
    except BaseException:
        if close_after:
            services.uploads.cancel(upload.id)
        raise
    if close_after:
        services.uploads.close(upload.id)
    accepted = [
        AcceptedFile(document_id=one.document_id, name=one.name, size_bytes=file.kept.size_bytes)
        for one, file in zip(added, files, strict=True)
    ]
    return AcceptedFiles(upload_id=upload.id, stores=upload.stores, documents=accepted)


def events(call: Call, upload_id: str) -> Response | Answer:
    """Watch an upload as server-sent events: how it stands, then what happens, until it is done or cancelled."""
    query: EventsQuery = call.query
    after = resume_after(query.after)
    upload = call.services.uploads.get(upload_id)
    if after and upload.state in UPLOAD_ENDED:
        return Answer(status=204)
    stream = _UploadStream(call.services, upload_id, after)
    return Response(stream, mimetype=MEDIA_TYPE, headers=HEADERS)


class UploadEnd:
    """Finds the end of an upload in what is told of it: its last word waits for the last changes of its files."""

    def __init__(self) -> None:
        self._final: Item | None = None

    @property
    def near(self) -> bool:
        """Whether its last word was heard; if nothing comes for LINGER_S, it is to be told, and that was all."""
        return self._final is not None

    @property
    def last_word(self) -> list[Item]:
        """What is told last."""
        return [self._final] if self._final else []

    def take(self, heard: Item) -> list[Item]:
        """What to tell now of what was heard."""
        counts = heard.event if isinstance(heard.event, UploadProgress) else None
        if counts is not None and counts.state in UPLOAD_ENDED:
            self._final = heard
            return []
        if counts is not None:
            self._final = None  # it goes on: a file was added, or tried again
        return [heard]


class _UploadStream:
    """An upload's events as lines of text."""

    def __init__(self, services: Services, upload_id: str, after: int) -> None:
        self._counts, self._listener = services.counts, open_listener(services)
        self._listener.subscribe(upload_id, after)

    def __iter__(self) -> Iterator[str]:
        yield f"retry: {RETRY_MS}\n\n"
        end = UploadEnd()
        try:
            while True:
                told = self._listener.next(LINGER_S if end.near else HEARTBEAT_S)
                if not told and end.near:
                    yield from map(event_lines, end.last_word)
                    return
                if not told:
                    yield ": heartbeat\n\n"
                for heard in told:
                    yield from map(event_lines, end.take(heard))
        except (Closed, Hopeless):
            return  # EventSource comes again by itself, with the last id it saw

    def close(self) -> None:
        """The client is gone or has heard it all."""
        if not self._listener.closed:
            self._counts.stream(-1)
            self._listener.close()


def view(services: Services, upload: Upload) -> UploadView:
    """An upload with its counts."""
    with services.database.read() as connection:
        counts = measure(connection, upload.id, time.time())
    fields = {name: getattr(counts, name) for name in Progress.__struct_fields__} if counts else {}
    return UploadView(**msgspec.structs.asdict(upload), progress=Progress(**fields))


def wanted_stores(stores: list[str] | None, persona_id: str | None) -> list[str]:
    """Where documents go: the named stores and the persona's own; the shared one where nothing is named."""
    found = [*(stores or []), *([persona_id] if persona_id else [])]
    return found or [SHARED_STORE]


def check_pools(services: Services) -> None:
    """Raises PoolClosed where no device could ever do the work."""
    for name in (ParseJob.POOL, EmbedJob.POOL):
        if not is_served(services.topology, name):
            raise PoolClosed(f"queues.yaml gives pool {name} no device, so no document could be indexed.")
