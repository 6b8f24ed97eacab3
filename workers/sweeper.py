"""The sweeper process: twice a second, what was lost is sent again, what is overdue ends, devices are looked after."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType

import redis
import sqlalchemy.exc

from reef.conversation.ends import announce_end
from reef.ledger import Ledger
from reef.ledger.attachments import forget_attachments
from reef.ledger.sweep import forget_ended, sweep
from reef.models.errors import ModelError
from reef.models.keeping import Keeping
from reef.models.preload import Preloader
from reef.observing.history import Recorder
from reef.observing.overview import Overview
from reef.records.database import Database
from reef.settings import load_settings
from reef.topology import load_topology
from tasks.dispatch import BrokerDown, Dispatcher
from workers.knowledge import make_flow
from workers.logs import configure_logging
from workers.placing import Placing

log = logging.getLogger(__name__)

ROUND_S = 0.5
FORGET_EVERY_S = 3600.0


def run(stop: threading.Event) -> None:
    """Sweep until told to stop."""
    settings = load_settings().changed(node="sweeper")
    topology = load_topology(settings.queues_file, settings.model)
    database = Database(settings.sqlalchemy_url)
    ledger = Ledger(database)
    dispatcher = Dispatcher(settings, topology)
    flow = make_flow(ledger, settings, dispatcher, dispatcher.redis)
    recorder = Recorder(Overview(ledger, dispatcher.redis, topology), dispatcher.redis)
    placing = Placing(topology, database, dispatcher.redis)
    keeping = Keeping(settings, topology, database, dispatcher.redis)
    preloader = Preloader(keeping, settings.model_preload_bytes)
    forget_at = time.monotonic()
    while not stop.wait(ROUND_S):
        try:
            swept = sweep(ledger, dispatcher.send_again, dispatcher.pending)
            for job in swept.ended:
                announce_end(database, dispatcher.redis, job)
            if swept.resent or swept.ended:
                log.info("sent %d hints again; %d jobs ended", swept.resent, len(swept.ended))
            forget_attachments(database)
            flow.look()
            recorder.look()
            preloader.look()
            if time.monotonic() >= forget_at:
                forget_ended(ledger)
                flow.give_up_late()
                flow.originals.collect(database)
                forget_at = time.monotonic() + FORGET_EVERY_S
        except (BrokerDown, redis.RedisError) as error:
            log.warning("this round waits for the broker: %s", error)
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("this round waits for the database: %s", error)
        except ModelError as error:
            log.warning("this round decides nothing about models: %s", error)
        except KeyError as error:
            log.error("a job names a pool that queues.yaml does not have: %s", error)  # noqa: TRY400
    placing.close()
    flow.progress.close()
    database.dispose()


def main() -> None:
    """Entry of the sweeper process."""
    configure_logging(load_settings())
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    run(stop)


if __name__ == "__main__":
    main()
