"""Files that come as a gRPC stream: each straight to disk, written down together at the end, as those of a form are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from app.api.knowledge_shapes import AcceptedFiles, UploadDraft
from app.api.uploads import check_pools, take_files, wanted_stores
from app.grpc_api import shapes
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.hosting import Host, Lane
from app.grpc_api.limits import UPLOAD_IDLE_S
from app.receiving import FilePart, ReceivedFile, check_files
from app.refusals import Refusal
from app.texts import refuse_nul_in


async def parts_of(stream: AsyncIterator[pb.UploadPart]) -> AsyncIterator[pb.UploadPart]:
    """The parts as they come. Raises Refusal where they stop coming."""
    while True:
        try:
            async with asyncio.timeout(UPLOAD_IDLE_S):
                part = await anext(stream, None)
        except TimeoutError:
            raise Refusal(504, "silent", "Silent", f"Nothing came for {UPLOAD_IDLE_S:.0f} s.") from None
        if part is None:
            return
        yield part


class Uploading:
    """The files of one call. What was received is garbage unless `finish` wrote it down."""

    def __init__(self, host: Host) -> None:
        self._host, self._services = host, host.services
        self._limits = host.services.uploads.limits
        self._to = pb.UploadTo()
        self._draft = UploadDraft()
        self._files: list[FilePart] = []
        self._bytes = 0
        self._begun = False
        self._lane = Lane()

    async def begin(self) -> None:
        """Look whether files can be taken at all. Raises PoolClosed and DiskFull."""
        check_pools(self._services)
        await self._host.read(self._services.uploads.originals.check_room, 0)

    async def take(self, part: pb.UploadPart) -> None:
        """Take what came. Raises Refusal and DiskFull."""
        match part.WhichOneof("part"):
            case "to":
                self._address(part.to)
            case "file":
                await self._begin_file(part.file.name)
            case "data":
                await self._write(part.data)
            case _:
                raise _disorder("A part has `to`, `file` or `data`.")
        self._begun = True

    async def finish(self) -> AcceptedFiles:
        """Everything came: write it down. Raises Refusal and as Uploads.add_kept."""
        if not self._files:
            raise Refusal(400, "no_files", "No files", "The stream has no file; send `file` and its `data`.")
        await self._lane.run(self._host.read(self._files[-1].finish))
        return await self._lane.run(self._host.read(self._write_down))

    def close(self) -> None:
        """The call is over."""
        self._lane.end(lambda: self._host.leave(self._discard))

    def _address(self, to: pb.UploadTo) -> None:
        if self._begun:
            raise _disorder("`to` comes first, and once.")
        self._to = to
        draft = pb.UploadTo()
        draft.CopyFrom(to)
        draft.ClearField("upload_id")
        self._draft = shapes.read(draft, UploadDraft)
        if to.upload_id:
            shapes.identifier(to, "upload_id")

    async def _begin_file(self, name: str) -> None:
        refuse_nul_in(name)
        check_files(len(self._files) + 1, self._limits.files_max)
        if self._files:
            await self._lane.run(self._host.read(self._files[-1].finish))
        await self._lane.run(self._host.read(self._open, name))

    async def _write(self, data: bytes) -> None:
        if not self._files:
            raise _disorder("`data` comes after the `file` that it belongs to.")
        self._bytes += len(data)
        if self._bytes > self._limits.upload_bytes_max:
            detail = f"One upload may have {self._limits.upload_bytes_max} bytes; send the others in another one."
            raise Refusal(413, "limit_reached", "Limit reached", detail)
        await self._lane.run(self._host.read(self._files[-1].write, data))

    def _open(self, name: str) -> None:
        # here and not with what is awaited: whoever hangs up meanwhile leaves a file that `close` knows of
        self._files.append(FilePart(self._services.uploads.originals, name, self._limits.bytes_max(name)))

    def _write_down(self) -> AcceptedFiles:
        uploads = self._services.uploads
        if self._to.upload_id:
            upload = uploads.get(self._to.upload_id)
        else:
            stores = wanted_stores(self._draft.stores, self._draft.persona_id)
            upload = uploads.create(self._draft.name or self._files[0].filename, stores)
        received = [ReceivedFile(file.filename, file.kept) for file in self._files if file.kept is not None]
        return take_files(self._services, upload, received, close_after=not self._to.upload_id)

    def _discard(self) -> None:
        for file in self._files:
            file.close()


def _disorder(detail: str) -> Refusal:
    return Refusal(400, "bad_order", "Out of order", detail)
