"""Documents over gRPC: uploading, watching, reading, searching; the same functions as behind REST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from app.api import documents as rest
from app.api.documents import QueryResult, search_answer, search_job
from app.api.knowledge_shapes import DocumentQuery, SearchRequest
from app.api.uploads import LINGER_S, UploadEnd
from app.grpc_api import shapes
from app.grpc_api.access import Context
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.generated import coral_reef_pb2_grpc as services
from app.grpc_api.hosting import Hearing, Host
from app.grpc_api.limits import HEAR_S
from app.grpc_api.uploading import Uploading, parts_of
from app.questions import WAIT_MAX_S, answered, not_in_time, take_result
from app.web import Call
from reef.contracts.frames import SubscribeFrame
from reef.contracts.jobs import QueryJob
from reef.knowledge.model import UPLOAD_ENDED


class Documents(services.DocumentsServicer):
    """What personas may read."""

    def __init__(self, host: Host) -> None:
        self._host, self._services = host, host.services

    async def Upload(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.UploadPart], context: Context
    ) -> pb.AcceptedFiles:
        """Take files in."""
        uploading = Uploading(self._host)
        try:
            await uploading.begin()
            async for part in parts_of(request_iterator):
                await uploading.take(part)
            return shapes.write(await uploading.finish(), pb.AcceptedFiles)
        finally:
            uploading.close()

    async def WatchUpload(  # noqa: N802
        self, request: pb.WatchUploadRequest, context: Context
    ) -> AsyncIterator[pb.UploadEvent]:
        """Hear how an upload stands and what happens in it, until its end."""
        frame = shapes.read(request, SubscribeFrame, last_seq="after_seq")
        upload = await self._host.read(self._services.uploads.get, frame.upload_id)
        if frame.last_seq and upload.state in UPLOAD_ENDED:
            return
        end = UploadEnd()
        with self._host.hear() as hearing:
            hearing.listener.subscribe(frame.upload_id, frame.last_seq)
            while True:
                told = await hearing.next(LINGER_S if end.near else HEAR_S)
                over = not told and end.near
                for one in end.last_word if over else [now for heard in told for now in end.take(heard)]:
                    if one.event is not None:
                        yield shapes.upload_event(one.event)
                if over:
                    return

    async def List(self, request: pb.ListDocumentsRequest, context: Context) -> pb.DocumentList:  # noqa: N802
        """Newest first."""
        call = Call(services=self._services, query=shapes.read(request, DocumentQuery))
        return shapes.write(await self._host.read(rest.list_all, call), pb.DocumentList)

    async def Get(self, request: pb.GetDocumentRequest, context: Context) -> pb.Document:  # noqa: N802
        """Read one."""
        document_id = shapes.identifier(request, "document_id")
        return shapes.write(await self._host.read(rest.get, Call(services=self._services), document_id), pb.Document)

    async def Delete(  # noqa: N802
        self, request: pb.DeleteDocumentRequest, context: Context
    ) -> pb.DeleteDocumentAnswer:
        """Delete one."""
        document_id = shapes.identifier(request, "document_id")
        await self._host.read(rest.delete, Call(services=self._services), document_id)
        return pb.DeleteDocumentAnswer()

    async def Query(self, request: pb.QueryRequest, context: Context) -> pb.QueryAnswer:  # noqa: N802
        """Search documents."""
        body = shapes.read(request, SearchRequest)
        began = time.monotonic()
        job = await self._host.read(search_job, self._services, body)
        with self._host.hear() as hearing:
            found = await self._found(hearing, job)
        return shapes.write(search_answer(found, began), pb.QueryAnswer)

    async def _found(self, hearing: Hearing, job: QueryJob) -> QueryResult:
        """What the device answers. Raises Refusal; whoever waits no longer takes the job back."""
        accepted = await hearing.accept(self._services.desk.complete, job)
        run_id = accepted.run.id
        done = False
        try:
            hearing.listener.follow(run_id)
            async with asyncio.timeout(WAIT_MAX_S):
                while not done:
                    told = await hearing.next(HEAR_S)
                    done = any(answered(one.event, run_id) for one in told)
            return await self._host.read(take_result, self._services, run_id, QueryResult)
        except TimeoutError:
            raise not_in_time(run_id) from None
        finally:
            if not done:
                self._host.leave(self._services.desk.stop, run_id)
