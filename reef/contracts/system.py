"""What is told of the reef as a whole: its devices, queues, jobs and last hour. The same over REST and live.

Plain values; what makes them is in reef/observing/.
"""

from __future__ import annotations

import msgspec

from reef.contracts.nodes import DeviceHealth


class PlaceView(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about a device; it is carried out once the device's `place_version` is this `version`."""

    pool: str
    model: str
    tier: str
    reason: str
    decided_by: str
    version: int
    decided_at: float


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A device of queues.yaml and what its worker reports; state `missing` where no worker does."""

    node: str
    device: str
    kind: str
    state: str
    pool: str = ""
    """That it serves now; empty where it waits to be given work."""
    engine: str = ""
    model: str = ""
    progress: float = 0.0
    note: str = ""
    running: int = 0
    streams: int = 0
    simulated: bool = False
    host: str = ""
    pid: int = 0
    tier: str = "pool"
    general: bool = True
    routes: tuple[str, ...] = ()
    resident: tuple[str, ...] = ()
    loading: str = ""
    place_version: int = 0
    health: DeviceHealth = DeviceHealth()
    last_fault: str = ""
    last_fault_at: float = 0.0
    fallback: bool = False
    tokens_per_s: float = 0.0
    inferences_per_s: float = 0.0
    waiting: int = 0
    """Jobs that wait for this very device: of its routes, or because it holds their prompt cache."""
    movable: bool = False
    """A strategy gives it out, so that it can serve another pool; else only its model can change."""
    place: PlaceView | None = None
    """None: nobody decided anything; it does what queues.yaml says."""
    failures: int = 0
    """In a row."""
    quarantined_until: float = 0.0
    """Not opened again before this time; 0 where it is in no quarantine."""


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A pool, its queue and its devices."""

    name: str
    queue: str
    streams: int
    """Jobs that its devices can run at once now; those that serve nothing count for none."""
    running: int
    waiting: int
    waiting_max: int
    devices: list[DeviceStatus]
    model: str = ""
    """That queues.yaml names."""
    oldest_at: float | None = None
    """When the job that waits longest was accepted."""
    wait_s: float | None = None
    """Estimated wait of a job that came now; null while nothing was measured."""
    job_s: float | None = None
    """Mean run time of the last jobs."""


class BetterModel(msgspec.Struct, frozen=True):
    """A model worth having, and the command that fetches it."""

    name: str
    command: str


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The model of the chat pool. `demo`: small enough to ship, not good enough to rely on."""

    name: str
    title: str
    demo: bool
    better: BetterModel | None = None


class RunCounts(msgspec.Struct, frozen=True):
    """Runs by state."""

    queued: int
    running: int
    dead: int


class SystemStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole reef at a glance."""

    version: str
    model: ModelStatus
    pools: list[PoolStatus]
    runs: RunCounts
    flower_url: str
    database: str
    broker: str
    vectors: str
    """ok, down (chats go on, documents cannot be asked) or off (this reef reads no documents)."""
    at: float = 0.0
    """When this was so."""
    strategy: str = ""
    """By which devices are given out; empty: every pool keeps those that queues.yaml names."""
    unplaced: list[DeviceStatus] = []
    """Devices that serve no pool now."""
    gateway: str = "off"
    """ok, down (the web process holds WebSockets itself meanwhile) or off (it always does)."""
    sockets_open: int = 0
    """WebSockets that this web process and its gateway hold. Not told live: each of the two knows only its own."""
    grpc: str = ""
    """Where this machine reaches the gRPC API that the gateway serves; empty where it serves none."""


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job for the operator. Times are Unix seconds; `node` is the worker that runs it, or ran it last."""

    id: str
    task: str
    pool: str
    state: str
    session_id: str | None
    session_title: str = ""
    persona_id: str = ""
    persona_name: str = ""
    documents: int = 0
    """Files that it works on."""
    model: str = ""
    """That it fetches or runs, where the job names one."""
    route: str | None = None
    node: str | None = None
    attempts: int
    attempts_max: int
    stop_requested: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    error: str | None


class PoolSample(msgspec.Struct, frozen=True, kw_only=True):
    """One pool at one moment of the last hour."""

    queued: int
    running: int
    wait_s: float | None
    devices: int
    """Devices that serve it."""
    busy: int
    """Those of them that work on something."""
    tokens_per_s: float
    inferences_per_s: float


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The reef at one moment."""

    at: float
    pools: dict[str, PoolSample]
