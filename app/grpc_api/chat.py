"""Chat over gRPC: saying something, hearing a run, stopping it, reading a conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from app.api.runs import stop, told_all
from app.api.sessions import read_history
from app.grpc_api import shapes
from app.grpc_api.access import Context
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.generated import coral_reef_pb2_grpc as services
from app.grpc_api.hosting import Hearing, Host
from app.grpc_api.limits import HEAR_S, PART_BYTES_MAX
from app.web import Call
from reef.contracts.events import FINAL
from reef.contracts.frames import ChatFrame, ResumeFrame, StopFrame
from reef.conversation.store import Message


class Chat(services.ChatServicer):
    """Talking to one persona."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def Say(self, request: pb.SayRequest, context: Context) -> AsyncIterator[pb.RunEvent]:  # noqa: N802
        """Say something and hear its run."""
        frame = shapes.read(request, ChatFrame)
        with self._host.hear() as hearing:
            await hearing.say(frame)
            async for event in _run(hearing):
                yield event

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> AsyncIterator[pb.RunEvent]:  # noqa: N802
        """Hear a run from where the client was."""
        frame = shapes.read(request, ResumeFrame, last_seq="after_seq")
        if await self._host.read(self._told_all, frame):
            return
        with self._host.hear() as hearing:
            await hearing.resume(frame)
            async for event in _run(hearing):
                yield event

    async def Stop(self, request: pb.StopRequest, context: Context) -> pb.RunState:  # noqa: N802
        """Stop a run."""
        frame = shapes.read(request, StopFrame)
        state = await self._host.read(stop, Call(services=self._host.services), frame.run_id)
        return shapes.write(state, pb.RunState)

    async def History(  # noqa: N802
        self, request: pb.HistoryRequest, context: Context
    ) -> AsyncIterator[pb.HistoryPart]:
        """Read a conversation."""
        session_id = shapes.identifier(request, "session_id")
        session, said, runs = await self._host.read(read_history, self._host.services, session_id)
        first = pb.HistoryPart(session=shapes.write(session, pb.Session))
        first.active_runs.extend(shapes.write(run, pb.ActiveRun) for run in runs)
        yield first
        for part in _parts(said):
            yield part

    def _told_all(self, frame: ResumeFrame) -> bool:
        return told_all(self._host.services, self._host.services.ledger.get(frame.run_id), frame.last_seq)


async def _run(hearing: Hearing) -> AsyncIterator[pb.RunEvent]:
    """The events of the one run that is followed, up to its end."""
    while True:
        for told in await hearing.next(HEAR_S):
            if told.event is None:
                continue
            yield shapes.run_event(told.event)
            if isinstance(told.event, FINAL):
                return


def _parts(said: list[Message]) -> Iterator[pb.HistoryPart]:
    """Messages, in parts that a client takes."""
    part, size_bytes = pb.HistoryPart(), 0
    for message in said:
        told = shapes.write(message, pb.Message)
        if part.messages and size_bytes + told.ByteSize() > PART_BYTES_MAX:
            yield part
            part, size_bytes = pb.HistoryPart(), 0
        part.messages.append(told)
        size_bytes += told.ByteSize()
    if part.messages:
        yield part
