"""gRPC's health service, which says what /readyz says. It looks when somebody asks or watches, and only then."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health, health_pb2

from app.api.system import readiness
from app.grpc_api.access import Context
from app.grpc_api.hosting import Host

LOOK_EVERY_S = 1.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Of the server as a whole (the empty name) and of each of its services, which are as ready as it is."""

    def __init__(self, host: Host, names: Iterable[str]) -> None:
        super().__init__()
        self._host, self._names = host, ("", *names)
        self._looked_at = -LOOK_EVERY_S
        self._looking = asyncio.Lock()
        self._watchers = 0
        self._watch: asyncio.Task[None] | None = None

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: N802
        """How it is now."""
        await self._look()
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802
        """How it is, and when that changes."""
        await self._look()
        self._watchers += 1
        if self._watch is None:
            self._watch = asyncio.create_task(self._look_again())
        try:
            await super().Watch(request, context)
        finally:
            self._watchers -= 1
            if not self._watchers and self._watch is not None:
                self._watch.cancel()
                self._watch = None

    async def stop(self) -> None:
        """Serve nobody from now on, and say so."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        await self.enter_graceful_shutdown()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._look()

    async def _look(self) -> None:
        async with self._looking:
            if time.monotonic() - self._looked_at < LOOK_EVERY_S:
                return
            ready, _ = await self._host.read(readiness, self._host.services)
            self._looked_at = time.monotonic()
            for name in self._names:
                await self.set(name, SERVING if ready else NOT_SERVING)
