"""The gateway process: WebSockets that the web process accepted, and gRPC where it is on, in one uvloop.

`coral-reef up` starts it; without it the web process holds its WebSockets itself. Reads its settings, puts the parts
together, and takes them apart in order.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack

import uvloop

from app.gateway import place
from app.gateway.adoption import Adoption
from app.gateway.host import SOCKETS_MAX, Host, limits
from app.gateway.numbers import Numbers
from app.gateway.subscription import LoopSubscription
from app.gateway.threads import Threads
from app.process import begin, files_max
from app.services import Services, build
from reef.settings import Settings
from websocket_fabric import WebSocketServer

log = logging.getLogger(__name__)

FILES_RESERVED = 256
"""Open files that are no client's: broker, database, logs, the web process's connections."""


def main() -> int:
    """Serve until a signal says stop."""
    uvloop.run(serve(begin()))
    return 0


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then clients are told to come again, and what was sent to them still goes out.

    Raises OSError where it cannot listen.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    async with AsyncExitStack() as ends:  # they end in the opposite order
        reef = build(settings, process="gateway", subscription=LoopSubscription(settings.redis_url))
        ends.push_async_callback(asyncio.to_thread, reef.close)
        threads = Threads()
        ends.callback(threads.close)
        if settings.grpc_port:
            await _serve_grpc(reef, threads, ends)  # first: where its port is taken, no socket is adopted and dropped
        ends.callback(reef.relay.close)  # every listener ends, and whoever tells it says so
        if settings.gateway and place.supported():
            await _hold_sockets(reef, threads, ends)
        log.info("the gateway serves")
        await stop.wait()
        log.info("the gateway stops")


async def _hold_sockets(reef: Services, threads: Threads, ends: AsyncExitStack) -> None:
    server, host = WebSocketServer(limits=limits()), Host(reef, threads)
    host.install(server)
    await server.start()
    ends.push_async_callback(server.stop)
    ends.callback(host.close)
    places = min(SOCKETS_MAX, files_max() - FILES_RESERVED)
    adoption = Adoption(
        server,
        has_room=lambda: reef.counts.sockets_open < places,
        report=Numbers(reef.counts, server.counts).report,
        count=reef.counts.adopted,
    )
    ends.push_async_callback(adoption.close)
    adoption.start(place.path_of(reef.settings))


async def _serve_grpc(reef: Services, threads: Threads, ends: AsyncExitStack) -> None:
    from app.grpc_api.server import start  # here: a large library that most reefs do without

    server = await start(reef, threads, host=reef.settings.host, port=reef.settings.grpc_port)
    ends.push_async_callback(server.stop)
