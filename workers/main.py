"""Entry of a worker process: one device, its engine, its queue. `python -m workers.main --pool chat --device cpu`.

A worker that died must be back soon, so this module imports little: the engine begins to load at once, in a thread,
and everything else (workers/worker.py) is imported while the device is busy with that.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence

from reef.ports import Engine, EngineError
from reef.priority import give_way
from reef.settings import Settings, load_settings
from reef.topology import Device, Pool, load_topology
from workers.devices.keeper import DeviceKeeper
from workers.loading import Loading
from workers.logs import configure_logging

log = logging.getLogger(__name__)


def pin(pool: Pool, device: Device) -> None:
    """Give this process the device's CPU cores and the pool's priority."""
    if device.cores:
        os.sched_setaffinity(0, device.cores)
    if pool.nice:
        give_way(pool.nice)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to stop."""
    parser = argparse.ArgumentParser(prog="workers.main", description=__doc__)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--device", required=True)
    arguments = parser.parse_args(argv)
    # what is made while a process starts stays: looking for garbage in it costs a tenth of the start
    gc.disable()
    settings = load_settings()
    configure_logging(settings)
    topology = load_topology(settings.queues_file, settings.model)
    pool = topology.pool(arguments.pool)
    device = pool.device(arguments.device)
    settings = settings.changed(node=pool.node(device))
    pin(pool, device)
    keeper = DeviceKeeper(settings, device, cpu_fallback=pool.cpu_fallback)

    def choose() -> Engine:
        opened = keeper.open()
        from workers.engines.select import choose_engine

        return choose_engine(settings, pool, opened)

    return _work(settings, pool, Loading(choose), keeper)


def _work(settings: Settings, pool: Pool, loading: Loading, keeper: DeviceKeeper) -> int:
    from workers.worker import Worker

    worker = Worker(settings, pool, keeper, loading)
    try:
        worker.run()
    except EngineError as error:
        log.error("%s cannot serve: %s", settings.node, error)  # noqa: TRY400 - the sentence is enough
        keeper.failed(error)
        worker.fail(str(error))
        return 1
    finally:
        keeper.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
