"""What is done when a worker process is seen to die: its jobs run again at once, elsewhere or in its successor."""

from __future__ import annotations

import logging

import redis

from reef import keys
from reef.conversation.ends import announce_death, announce_end
from reef.ledger import Ledger
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import load_topology
from tasks.dispatch import BrokerDown, Dispatcher
from tasks.rescue import restore_unacked

log = logging.getLogger(__name__)


def recover_node(settings: Settings, node: str) -> None:
    """Free a dead worker's jobs and send new hints for them.

    Raises nothing: what the broker does not take now, the sweeper sends again.
    """
    topology = load_topology(settings.queues_file)
    database = Database(settings.sqlalchemy_url)
    try:
        ledger = Ledger(database)
        released = ledger.release_owner(node)
        client = redis.Redis.from_url(settings.redis_url, socket_timeout=3, socket_connect_timeout=3)
        try:
            client.hdel(keys.NODES, node)
            left = restore_unacked(client, node)
            dispatcher = Dispatcher(settings, topology)
            for job in released:
                if job.state == "queued":
                    announce_death(client, job)
                    dispatcher.send_again(job)
                    ledger.mark_sent(job.id)
                else:
                    announce_end(database, client, job)
        finally:
            client.close()
        if released or left:
            log.warning("worker %s died; %d of its jobs and %s hints were released", node, len(released), left)
    except (BrokerDown, redis.RedisError, OSError) as error:
        log.warning("worker %s died and the broker does not answer (%s); the sweeper will see to its jobs", node, error)
    finally:
        database.dispose()
