"""The gateway as `coral-reef up` sees it: whether there is one, and whether it serves."""

from __future__ import annotations

from app.gateway import place
from app.handoff import Gateway
from cli.errors import Problem
from reef.settings import Settings
from workers import broker


def is_wanted(settings: Settings) -> bool:
    """Whether a gateway runs: it holds WebSockets where the platform can pass them on, and gRPC where that is on."""
    return bool(settings.grpc_port) or _adopts(settings)


def check_port(settings: Settings) -> None:
    """Raises Problem where the gRPC API cannot have its port."""
    host, port = settings.host, settings.grpc_port
    if port and (port == settings.port or not broker.port_is_free(port, host)):
        raise Problem(
            f"REEF_GRPC_PORT is {port}, which is taken on {host}.",
            f"Choose another one (REEF_GRPC_PORT={broker.free_port(avoid=[settings.port])}), or 0 for no gRPC API.",
        )


def answers(settings: Settings) -> bool:
    """Whether it takes sockets; one that serves gRPC only is not asked."""
    if not _adopts(settings):
        return True
    gateway = Gateway(place.path_of(settings))
    try:
        return gateway.report() is not None
    finally:
        gateway.close()


def _adopts(settings: Settings) -> bool:
    return settings.gateway and place.supported()
