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
from reef.metrics import DeviceMetrics
from workers.devices.keeper import DeviceSays
from workers.seat import Seat
from workers.wanted import Wanted

log = logging.getLogger(__name__)

INTERVAL_S = 1.0


class Heartbeat:
    """Owns the node's field in keys.NODES."""

    def __init__(self, client: redis.Redis, seat: Seat, want: Wanted) -> None:
        self._client, self._device_says = client, seat.keeper.says
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = False
        self._leaving = False
        self._running: Callable[[], int] = lambda: 0
        self._rates: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)
        self._metrics: Callable[[], str] = lambda: ""
        self._device = DeviceMetrics()
        self._report = NodeReport(
            node=seat.node,
            pool=want.pool.name if want.pool else "",
            device=seat.device.name,
            kind=seat.device.kind,
            host=socket.gethostname(),
            pid=os.getpid(),
            at=time.time(),
            state="loading",
            streams=want.pool.streams if want.pool else 0,
            tier=want.tier,
            simulated=seat.device.kind == "simulated",
        )
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)
        self._thread.start()

    def progress(self, share: float, note: str) -> None:
        """A model is being loaded."""
        self.change(progress=share, note=note)

    def measure(
        self, running: Callable[[], int], rates: Callable[[], tuple[float, float]], metrics: Callable[[], str]
    ) -> None:
        """Ask these for each report: jobs that run, tokens and inferences a second, metrics as text."""
        self._running, self._rates, self._metrics = running, rates, metrics

    def state(self, state: NodeState, note: str = "") -> None:
        """Another state, with a sentence for a person. One that leaves or has failed tells nothing else any more."""
        self.change(state=state, note=note)
        self._leaving = self._leaving or state == "draining"

    def change(self, **fields: object) -> None:
        """Say something else from now on."""
        with self._lock:
            if self._leaving:
                return
            report = msgspec.structs.replace(self._report, **fields)
            if report == self._report:
                return
            self._report = report
        self._changed.set()

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
        tokens_per_s, inferences_per_s = self._rates()
        with self._lock:
            report = msgspec.structs.replace(
                self._report,
                at=time.time(),
                running=self._running(),
                tokens_per_s=tokens_per_s,
                inferences_per_s=inferences_per_s,
                metrics=self._metrics(),
                **_of_device(self._report, self._device_says()),
            )
            self._device.saw(report)
        report = msgspec.structs.replace(report, metrics=report.metrics + self._device.text())
        self._client.hset(keys.NODES, report.node, msgspec.json.encode(report))  # type: ignore[arg-type]

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
    fields: dict[str, Any] = {"health": says.health, "fallback": says.fallback}
    if says.last_fault_at > report.last_fault_at:  # a model that could not be loaded is told, too
        fields |= {"last_fault": says.last_fault, "last_fault_at": says.last_fault_at}
    # a device without a pool is ready for one, but not while it is left alone
    if says.waiting and (report.state == "loading" or (report.state == "ready" and not report.pool)):
        return fields | {"state": "quarantined", "note": says.waiting}
    return fields | ({"note": says.note} if says.note and not report.note else {})
