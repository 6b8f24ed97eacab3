"""The operator's hand on jobs of any kind: list, cancel, try again, discard."""

from __future__ import annotations

import logging

from app.api.shapes import DeadJob, DeadJobs, JobList, JobsQuery
from app.refusals import Refusal, unknown_pool
from app.web import Answer, Call
from reef.contracts.system import JobView
from reef.ledger import JobRecord
from reef.ledger.survey import NotGivenUp, list_jobs, one_job
from reef.ledger.survey import discard as forget
from tasks.dispatch import BrokerDown

log = logging.getLogger(__name__)

DEAD_LISTED_MAX = 100


def list_some(call: Call) -> JobList:
    """Jobs that run, wait, or were given up."""
    query: JobsQuery = call.query
    ledger = call.services.ledger
    listed = list_jobs(ledger, query.state, query.limit, query.pool)
    pools = call.services.topology.pools
    # jobs of a pool that queues.yaml no longer names are there to be seen
    if query.pool and query.pool not in pools and not listed:
        raise unknown_pool(query.pool, pools)
    return JobList(listed, ledger.counts().get(query.state, 0))


def cancel(call: Call, job_id: str) -> JobView:
    """Stop a job: at once where it waits, at its next step where it runs; one that ended stays as it is.

    Files that a cancelled job worked on wait again; to stop those, pause or cancel their upload.
    """
    return one_job(call.services.ledger, call.services.desk.stop(job_id))


def retry(call: Call, job_id: str) -> Answer:
    """Give a dead or failed job a new set of attempts."""
    return Answer(status=202, body=one_job(call.services.ledger, _revived(call, job_id)))


def discard(call: Call, job_id: str) -> Answer:
    """Take a dead or failed job off the list for good."""
    try:
        forget(call.services.ledger, job_id)
    except NotGivenUp as error:
        raise Refusal(409, "not_dead", "Not dead", str(error)) from None
    return Answer(status=204)


def dead(call: Call) -> DeadJobs:
    """Jobs whose attempts are used up."""
    return DeadJobs([_dead(record) for record in call.services.ledger.dead(DEAD_LISTED_MAX)])


def retry_dead(call: Call, job_id: str) -> Answer:
    """Give a dead job a new set of attempts."""
    return Answer(status=202, body=_dead(_revived(call, job_id)))


def _revived(call: Call, job_id: str) -> JobRecord:
    services = call.services
    found = services.ledger.get(job_id)
    if found.state not in ("dead", "failed"):
        detail = f"This job is {found.state}; only dead and failed ones can be tried again."
        raise Refusal(409, "not_dead", "Not dead", detail)
    record = services.ledger.revive(job_id, services.topology.pool(found.pool).limits.deadline_s)
    try:
        services.desk.resend(record)
    except BrokerDown:
        log.warning("job %s waits for the sweeper: the broker does not answer", job_id)
    return record


def _dead(record: JobRecord) -> DeadJob:
    return DeadJob(**{name: getattr(record, name) for name in DeadJob.__struct_fields__})
