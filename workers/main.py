"""Entry of a worker process: one device, its engine, its queues.

    python -m workers.main --pool chat --device cpu     a device that queues.yaml gives to a pool
    python -m workers.main --device pci:3               one that a strategy gives out (`allocation:` of queues.yaml)

A worker that died must be back soon, so this module imports little: the engine begins to load at once, in a thread,
and everything else (workers/worker.py) is imported while the device is busy with that.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence

from reef.priority import give_way
from reef.settings import load_settings
from reef.topology import Device, Pool, load_topology
from workers.boot import Boot
from workers.logs import configure_logging
from workers.seat import take_seat


def pin(pool: Pool | None, device: Device) -> None:
    """Give this process the device's CPU cores and the pool's priority.

    A device that is given out keeps its priority: a process cannot take back what it once gave way.
    """
    if device.cores:
        os.sched_setaffinity(0, device.cores)
    if pool is not None and pool.nice:
        give_way(pool.nice)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to stop."""
    parser = argparse.ArgumentParser(prog="workers.main", description=__doc__.partition("\n")[0])
    parser.add_argument("--pool", default="", help="pool of the device; none for a device of the allocation")
    parser.add_argument("--device", required=True)
    arguments = parser.parse_args(argv)
    # what is made while a process starts stays: looking for garbage in it costs a tenth of the start
    gc.disable()
    settings = load_settings()
    configure_logging(settings)
    topology = load_topology(settings.queues_file, settings.model)
    seat = take_seat(settings, topology, arguments.pool, arguments.device)
    pin(seat.own, seat.device)
    boot = Boot(seat)
    from workers.worker import serve

    return serve(boot)


if __name__ == "__main__":
    sys.exit(main())
