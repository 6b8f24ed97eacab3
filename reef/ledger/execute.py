"""What every kind of job shares: claim it, watch over it, end it in exactly one way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import msgspec

from reef.contracts.events import Error
from reef.contracts.jobs import Job
from reef.ledger.model import Claim
from reef.ports import DeviceContext, EngineError, EngineRefused, Hold, RunWriter, Station, Visit

log = logging.getLogger(__name__)

RETRY_DELAYS_S = (0.5, 2.0, 10.0, 30.0)
"""Wait before the second, third, … attempt; the last one repeats."""

J = TypeVar("J", bound=Job)
Body = Callable[[DeviceContext, Claim, J, RunWriter, Hold], None]


def execute(station: Station, job_id: str, kind: type[J], body: Body[J]) -> None:
    """Run one job if it is ours to run. The body ends it in the ledger; what it raises is ended here."""
    with station.enter() as visit:
        if visit is None:
            log.info("job %s was taken for pool %s, which is served no longer; it is passed on", job_id, kind.POOL)
            station.pass_on(job_id)
            return
        claim = station.ledger.claim(job_id, station.node, station.pool.limits.lease_s)
        if claim is None:
            log.debug("job %s is not to be had: its hint was late or doubled", job_id)
            return
        _run(station, visit, claim, kind, body)


def _run(station: Station, visit: Visit, claim: Claim, kind: type[J], body: Body[J]) -> None:
    context = station.with_engine(visit.engine(claim.job))
    run_id, failure = claim.job.id, ""
    with station.leases.hold(claim) as hold, closing(station.open_writer(claim)) as writer:
        try:
            job = msgspec.json.decode(claim.job.payload, type=kind)
            run_id = getattr(job, "run_id", run_id)  # a stage before a run is part of the run's trace
            body(context, claim, job, writer, hold)
        except (EngineRefused, msgspec.ValidationError) as error:
            failure = str(error)
            _fail(context, claim, writer, failure, getattr(error, "code", EngineRefused.code))
        except EngineError as error:
            failure = str(error)
            _retry(context, claim, writer, hold, failure)
        except Exception as error:
            log.exception("job %s failed", claim.job.id)
            failure = f"{type(error).__name__}: an internal error; see the worker's log"
            _retry(context, claim, writer, hold, failure)
    if context.spans is not None:
        context.spans.attempted(claim, run_id, failure)


def _fail(context: DeviceContext, claim: Claim, writer: RunWriter, message: str, code: str) -> None:
    if context.ledger.finish(claim, "failed", error=message):
        writer.emit(Error(code=code, message=message))


def _retry(context: DeviceContext, claim: Claim, writer: RunWriter, hold: Hold, message: str) -> None:
    if hold.reason == "lost":
        return
    delay_s = RETRY_DELAYS_S[min(claim.job.attempts, len(RETRY_DELAYS_S)) - 1]
    if context.ledger.retry_later(claim, message, delay_s) == "dead":
        writer.emit(Error(code="failed", message=f"{message} (tried {claim.job.attempts} times)"))
