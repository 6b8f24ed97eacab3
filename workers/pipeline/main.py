"""Entry of a worker that is one stage of a pipeline: `python -m workers.pipeline.main --pool media --device pci:0 ...`.

The first stage is a worker as others are (workers/worker.py), whose engine is the pipeline; a later one consumes no
queue.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence

import redis

from reef.placement.model import Place
from reef.ports import Engine, EngineError
from reef.settings import Settings, load_settings
from reef.topology import Pool, load_topology
from workers.devices.keeper import DeviceKeeper
from workers.engines.select import choose_stage
from workers.heartbeat import Heartbeat
from workers.loading import Loading
from workers.logs import configure_logging
from workers.main import pin

log = logging.getLogger(__name__)

BROKER_TIMEOUT_S = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one stage until told to stop."""
    parser = argparse.ArgumentParser(prog="workers.pipeline.main", description=__doc__)
    for name in ("--pool", "--device", "--model"):
        parser.add_argument(name, required=True)
    parser.add_argument("--stage", type=int, required=True, help="which segment, from 0")
    parser.add_argument("--peers", required=True, help="nodes of all stages in order, with commas between them")
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    pool = load_topology(settings.queues_file, settings.model).pool(arguments.pool)
    device = pool.device(arguments.device)
    settings = settings.changed(node=pool.node(device))
    place = Place(
        node=settings.node,
        pool=pool.name,
        model=arguments.model,
        tier="stage",
        general=arguments.stage == 0,
        stage=arguments.stage,
        peers=tuple(arguments.peers.split(",")),
    )
    pin(pool, device)
    # a segment that is compiled for the device cannot fall back to the CPU
    keeper = DeviceKeeper(settings, device, cpu_fallback=False)
    loading = Loading(lambda: choose_stage(settings, pool, keeper.open(), place))
    try:
        return _lead(settings, pool, keeper, loading) if place.stage == 0 else _follow(settings, pool, keeper, loading)
    finally:
        keeper.close()


def _lead(settings: Settings, pool: Pool, keeper: DeviceKeeper, loading: Loading) -> int:
    from workers.worker import Worker

    worker = Worker(settings, pool, keeper, loading)
    try:
        worker.run()
    except EngineError as error:
        log.error("%s cannot serve: %s", settings.node, error)  # noqa: TRY400 - the sentence is enough
        keeper.failed(error)
        worker.fail(str(error))
        return 1
    return 0


def _follow(settings: Settings, pool: Pool, keeper: DeviceKeeper, loading: Loading) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with redis.Redis.from_url(
        settings.redis_url, socket_timeout=BROKER_TIMEOUT_S, socket_connect_timeout=BROKER_TIMEOUT_S
    ) as client:
        heartbeat = Heartbeat(client, pool, keeper.device, keeper.says)
        loading.tell(heartbeat.progress)
        try:
            engine: Engine = loading.wait()
        except EngineError as error:
            log.error("%s cannot serve: %s", settings.node, error)  # noqa: TRY400 - the sentence is enough
            keeper.failed(error)
            heartbeat.state("failed", str(error))
            heartbeat.write()
            return 1
        keeper.serving()
        heartbeat.ready(engine.name, engine.model, lambda: 0, lambda: "")
        log.info("%s is a later stage of %s", settings.node, engine.model)
        stop.wait()
        heartbeat.close()
        engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
