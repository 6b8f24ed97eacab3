"""Puts the gRPC server together, starts it in the running loop and stops it in good order."""

from __future__ import annotations

import logging

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from app.gateway.threads import Threads
from app.grpc_api.access import Doorman
from app.grpc_api.chat import Chat
from app.grpc_api.documents import Documents
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.generated import coral_reef_pb2_grpc as services
from app.grpc_api.group import Group
from app.grpc_api.health import Health
from app.grpc_api.hosting import Host
from app.grpc_api.limits import CALLS_MAX, GRACE_S, options
from app.grpc_api.personas import Personas
from app.grpc_api.system import System
from app.services import Services

log = logging.getLogger(__name__)

NAMES = tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())
"""Our services."""


class CannotListen(OSError):
    """The port cannot be had; the message says what to do."""


class GrpcServer:
    """A server that listens. `start` makes it."""

    def __init__(self, server: grpc.aio.Server, host: Host, health_service: Health) -> None:
        self.server = server
        self._host, self._health = host, health_service

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Take nothing new, tell every stream to come again, and end the rest when its time is over."""
        await self._health.stop()
        self._host.stop()
        await self.server.stop(grace_s)


async def start(parts: Services, threads: Threads, *, host: str, port: int) -> GrpcServer:
    """Serve the gRPC API there. Raises CannotListen."""
    inside = Host(parts, threads)
    server = grpc.aio.server(interceptors=[Doorman(inside, host)], options=options(), maximum_concurrent_rpcs=CALLS_MAX)
    services.add_ChatServicer_to_server(Chat(inside), server)
    services.add_GroupServicer_to_server(Group(inside), server)
    services.add_PersonasServicer_to_server(Personas(inside), server)
    services.add_DocumentsServicer_to_server(Documents(inside), server)
    services.add_SystemServicer_to_server(System(inside), server)
    health_service = Health(inside, NAMES)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection((*NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise CannotListen(
            f"The gRPC API cannot listen on {address}: the port is taken, or this machine has no such address. "
            "Set REEF_GRPC_PORT to another one, or to 0 for none."
        ) from None
    await server.start()
    log.info("the gRPC API listens on %s", address)
    return GrpcServer(server, inside, health_service)
