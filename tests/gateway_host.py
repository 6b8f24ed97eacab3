"""The gateway's host of client sessions, on a port of its own in a thread of the test's process."""

from __future__ import annotations

import uvloop
from hearing import LoopThread
from prometheus_client import generate_latest

from app.gateway.host import Host, limits
from app.gateway.subscription import LoopSubscription
from app.gateway.threads import Threads
from app.services import build
from reef.settings import Settings
from websocket_fabric import WebSocketServer


class GatewayHost:
    """Serves the same records and broker as a web process does."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.url = f"ws://127.0.0.1:{port}/ws"
        self.loop = LoopThread(uvloop.new_event_loop)
        self.loop.call(self._open(settings, port))

    async def _open(self, settings: Settings, port: int) -> None:
        self.threads = Threads()
        self.reef = build(settings, process="gateway", subscription=LoopSubscription(settings.redis_url))
        self.host = Host(self.reef, self.threads)
        self.server = WebSocketServer(f"127.0.0.1:{port}", limits=limits())
        self.host.install(self.server)
        await self.server.start()

    def metrics(self) -> str:
        """What it counts."""
        return generate_latest(self.reef.counts.registry).decode()

    def close(self) -> None:
        """End it as the gateway ends: clients are told to come again."""

        async def end() -> None:
            self.host.close()
            await self.server.stop()
            self.reef.close()
            self.threads.close()

        self.loop.call(end())
        self.loop.close()
        self.reef.redis.close()
        self.reef.database.dispose()
