"""A worker's report about itself, written to Redis about once a second and at every change of state."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import redis

from reef import keys
from reef.contracts.nodes import NodeReport, NodeState
from reef.topology import Device, Pool
from workers.devices.keeper import DeviceSays

log = logging.getLogger(__name__)

INTERVAL_S = 1.0


class Heartbeat:
    """Owns the node's field in keys.NODES."""

    def __init__(
        self, client: redis.Redis, pool: Pool, device: Device, device_says: Callable[[], DeviceSays] = DeviceSays
    ) -> None:
        """`device_says` is asked for each report: it must not wait."""
        self._client, self._device_says = client, device_says
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = False
        self._running: Callable[[], int] = lambda: 0
        self._metrics: Callable[[], str] = lambda: ""
        self._report = NodeReport(
            node=pool.node(device),
            pool=pool.name,
            device=device.name,
            kind=device.kind,
            host=socket.gethostname(),
            pid=os.getpid(),
            at=time.time(),
            state="loading",
            streams=pool.streams,
            simulated=device.kind == "simulated",
        )
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)
        self._thread.start()

    def progress(self, share: float, note: str) -> None:
        """The model is being loaded."""
        self._set(progress=share, note=note)

    def ready(self, engine: str, model: str, running: Callable[[], int], metrics: Callable[[], str]) -> None:
        """The worker takes jobs from now on."""
        self._running, self._metrics = running, metrics
        self._set(state="ready", engine=engine, model=model, progress=1.0, note="")

    def state(self, state: NodeState, note: str = "") -> None:
        """Another state, with a sentence for a person."""
        self._set(state=state, note=note)

    def close(self) -> None:
        """Take the report away: this worker is gone in good order."""
        self._closing = True
        self._changed.set()
        self._thread.join(2.0)
        try:
            self._client.hdel(keys.NODES, self._report.node)
        except (redis.RedisError, OSError):
            log.debug("the report stays until it is stale: the broker does not answer")

    def write(self) -> None:
        """Write the report now. Raises redis.RedisError."""
        with self._lock:
            report = msgspec.structs.replace(
                self._report,
                at=time.time(),
                running=self._running(),
                metrics=self._metrics(),
                **_of_device(self._report, self._device_says()),
            )
        self._client.hset(keys.NODES, report.node, msgspec.json.encode(report))  # type: ignore[arg-type]

    def _set(self, **fields: object) -> None:
        with self._lock:
            self._report = msgspec.structs.replace(self._report, **fields)
        self._changed.set()

    def _loop(self) -> None:
        while not self._closing:
            try:
                self.write()
            except (redis.RedisError, OSError) as error:
                log.warning("no heartbeat: the broker does not answer (%s)", error)
            self._changed.wait(INTERVAL_S)
            self._changed.clear()


def _of_device(report: NodeReport, says: DeviceSays) -> dict[str, Any]:
    """The fields of a report that the device decides."""
    fields = {name: getattr(says, name) for name in ("health", "last_fault", "last_fault_at", "fallback")}
    if says.waiting and report.state == "loading":
        return fields | {"state": "quarantined", "note": says.waiting}
    return fields | ({"note": says.note} if says.note and not report.note else {})
