"""The reef itself over gRPC: status, devices, models, jobs; the same functions as behind REST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.api import jobs, models, status
from app.api.models import LoadRequest, UnloadRequest
from app.api.shapes import JobsQuery
from app.grpc_api import shapes
from app.grpc_api.access import Context
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.generated import coral_reef_pb2_grpc as services
from app.grpc_api.hosting import Host
from app.web import Call


class System(services.SystemServicer):
    """What an operator sees and does."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.SystemStatus:  # noqa: N802
        """The whole reef at a glance."""
        return shapes.write(await self._do(status.status), pb.SystemStatus)

    async def Nodes(self, request: pb.NodesRequest, context: Context) -> pb.NodeList:  # noqa: N802
        """Its devices."""
        seen = await self._do(status.status)
        devices = [device for pool in seen.pools for device in pool.devices] + list(seen.unplaced)
        return pb.NodeList(nodes=[shapes.write(device, pb.DeviceStatus) for device in devices])

    async def Models(self, request: pb.ModelsRequest, context: Context) -> pb.ModelList:  # noqa: N802
        """Every model."""
        return shapes.write(await self._do(models.list_all), pb.ModelList)

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelAnswer:  # noqa: N802
        """Have devices serve a model."""
        done = await self._do(models.load, body=shapes.read(request, LoadRequest))
        return shapes.write(done.body, pb.LoadModelAnswer)

    async def UnloadModel(  # noqa: N802
        self, request: pb.UnloadModelRequest, context: Context
    ) -> pb.UnloadModelAnswer:
        """Have devices let go of a model."""
        done = await self._do(models.unload, body=shapes.read(request, UnloadRequest))
        return shapes.write(done.body, pb.UnloadModelAnswer)

    async def Jobs(self, request: pb.JobsRequest, context: Context) -> pb.JobList:  # noqa: N802
        """Jobs that run, wait or were given up."""
        return shapes.write(await self._do(jobs.list_some, query=shapes.read(request, JobsQuery)), pb.JobList)

    async def _do(self, handler: Callable[[Call], Any], **given: Any) -> Any:
        return await self._host.read(handler, Call(services=self._host.services, **given))
