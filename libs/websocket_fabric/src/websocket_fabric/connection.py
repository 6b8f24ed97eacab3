"""One client, as an application sees it. The socket's side is link.py's."""

from __future__ import annotations

from typing import Any, cast

from websocket_fabric.codes import NORMAL
from websocket_fabric.link import Link
from websocket_fabric.messages import Data
from websocket_fabric.outbox import Gone, Outbox
from websocket_fabric.writer import BY_APPLICATION, CONNECTING, LEAVING, OPEN


class Connection(Link):
    """One client: what may be done with it from handlers, hooks, and any other code in the server's loop."""

    __slots__ = ()

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and neither end began to close."""
        return self._phase == OPEN

    @property
    def peer(self) -> Any:
        """The address of the other end of the socket (of the proxy, where one is between)."""
        return self._transport.get_extra_info("peername") if self._transport is not None else None

    def send(self, data: Data) -> bool:
        """Send a message; never blocks. False where it cannot be sent: the connection is closing, or its queue full."""
        if self._phase > LEAVING:
            return False
        if self.outbox is not None:
            return self.wait(self.outbox, data)
        return self.gather(self.protocol.message(data))  # type: ignore[union-attr]

    def send_frame(self, frame: bytes, data: Data) -> bool:
        """groups.py's: send a message whose frame is there already."""
        if self._phase != OPEN:
            # who joined in on_connect is to hear what is said from then on
            return (
                self._phase == CONNECTING and bool(self.groups) and self.wait(cast("Outbox", self.outbox), data, frame)
            )
        if self.outbox is not None:
            return self.wait(self.outbox, data, frame)
        if self.pending is not None:
            return self.gather(frame)
        counts = self.server.counts
        counts.messages_out += 1
        counts.bytes_out += len(frame)
        self._transport.write(frame)
        return True

    async def drain(self) -> None:
        """Wait until the client has taken what waits; in on_connect for nothing. Raises Gone where it ends before."""
        if self._phase > LEAVING:
            raise Gone("The connection is closed.")
        if self._phase == CONNECTING:
            # nothing is written before on_connect has returned
            return
        if self._rest is None:
            self.flush()
        if self.outbox is not None:
            await self.outbox.wait()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say what was sent so far, then goodbye. Raises ValueError for a code that may not be sent."""
        if self._phase > LEAVING or self.protocol is None:
            return
        frame = self.protocol.close(code, reason)
        if not frame:
            if self._phase == LEAVING:
                self.part(self._farewell)
            return
        self.close_code, self.close_reason = code, reason
        if self._phase == CONNECTING:
            cast("Outbox", self.outbox).closing = frame
        else:
            self.part(frame)

    def retire(self, code: int, reason: str) -> None:
        """As `close`, but what was read already is handled and answered before."""
        if self._phase == OPEN and self.protocol is not None:
            frame = self.protocol.close(code, reason)
            self.close_code, self.close_reason = code, reason
            self.depart(frame)
        elif self._opening is not None:
            self.close(code, reason)

    def abort(self) -> None:
        """Cut it off."""
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Read nothing more from this client, and call no handler for it."""
        self.hold(BY_APPLICATION)

    def resume_reading(self) -> None:
        """Go on."""
        self.release(BY_APPLICATION)

    def join(self, group: str) -> None:
        """Get what is broadcast to this group."""
        if self._phase <= LEAVING:
            self.server.groups.join(self, group)

    def leave(self, group: str) -> None:
        """No longer get it."""
        self.server.groups.leave(self, group)

    def ping(self) -> None:
        """Ask for a sign of life; `rtt_s` is the time it took."""
        if self._phase == OPEN and self.protocol is not None:
            self.ping_now(self.protocol)
