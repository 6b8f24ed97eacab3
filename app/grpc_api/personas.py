"""Personas over gRPC; the same functions as behind REST."""

from __future__ import annotations

from collections.abc import AsyncIterator

from app.api.shapes import PersonaEnd
from app.grpc_api import shapes
from app.grpc_api.access import Context
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.generated import coral_reef_pb2_grpc as services
from app.grpc_api.hosting import Host
from reef.knowledge.parting import delete_persona
from reef.personas import store
from reef.personas.store import PersonaDraft


class Personas(services.PersonasServicer):
    """Reading and changing personas."""

    def __init__(self, host: Host) -> None:
        self._host, self._database = host, host.services.database

    async def List(self, request: pb.ListPersonasRequest, context: Context) -> AsyncIterator[pb.Persona]:  # noqa: N802
        """All of them; one message each, since their prompts may be long."""
        for persona in await self._host.read(store.list_personas, self._database):
            yield shapes.write(persona, pb.Persona)

    async def Get(self, request: pb.GetPersonaRequest, context: Context) -> pb.Persona:  # noqa: N802
        """Read one."""
        persona_id = shapes.identifier(request, "persona_id")
        return shapes.write(await self._host.read(store.get_persona, self._database, persona_id), pb.Persona)

    async def Create(self, request: pb.PersonaDraft, context: Context) -> pb.Persona:  # noqa: N802
        """Make one."""
        draft = shapes.read(request, PersonaDraft)
        return shapes.write(await self._host.read(store.create_persona, self._database, draft), pb.Persona)

    async def Update(self, request: pb.UpdatePersonaRequest, context: Context) -> pb.Persona:  # noqa: N802
        """Replace what a user may set."""
        persona_id = shapes.identifier(request, "persona_id")
        draft = shapes.read(request.draft, PersonaDraft)
        changed = await self._host.read(store.update_persona, self._database, persona_id, draft)
        return shapes.write(changed, pb.Persona)

    async def Delete(self, request: pb.DeletePersonaRequest, context: Context) -> pb.DeletePersonaAnswer:  # noqa: N802
        """Delete one."""
        persona_id = shapes.identifier(request, "persona_id")
        wanted = shapes.read(request, PersonaEnd)
        await self._host.read(delete_persona, self._host.services.uploads.flow, persona_id, wanted.documents)
        return pb.DeletePersonaAnswer()
