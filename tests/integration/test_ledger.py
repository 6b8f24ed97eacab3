"""The ledger's contract, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from reef.contracts.jobs import CompletionJob
from reef.ledger import JobRecord, LaneBusy, Ledger, NewJob, PoolFull, UnknownJob
from reef.ledger.attachments import forget_attachments, read_attachment
from reef.ledger.sweep import forget_ended, sweep
from reef.records.database import Database, migrate
from reef.records.tables import is_ours, jobs, metadata


class Clock:
    """Unix time that only moves when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(any_database: Database, clock: Clock) -> Ledger:
    return Ledger(any_database, clock)


def submit(ledger: Ledger, *, waiting_max: int = 100, **fields: object) -> JobRecord:
    job = CompletionJob(messages=[{"role": "user", "content": "hi"}], tokens_max=4)
    new = NewJob(**({"job": job, "deadline_s": 600.0, "attempts_max": 3} | fields))
    with ledger.database.write() as connection:
        return ledger.submit(connection, new, waiting_max=waiting_max, streams=2)


def nothing_pending(_pool: str) -> int:
    return 0


def test_a_job_is_claimed_once(ledger: Ledger) -> None:
    """Of two workers with a hint for the same job exactly one gets it."""
    job = submit(ledger)
    first, second = ledger.claim(job.id, "a", 5), ledger.claim(job.id, "b", 5)
    assert first is not None
    assert second is None
    assert ledger.get(job.id).owner == "a"


def test_many_workers_racing_for_many_jobs_never_share_one(ledger: Ledger) -> None:
    """Eight threads that try every job claim each exactly once."""
    ids = [submit(ledger).id for _ in range(40)]
    won: list[str] = []

    def race(name: str) -> None:
        for job_id in ids:
            if ledger.claim(job_id, name, 5) is not None:
                won.append(job_id)

    threads = [threading.Thread(target=race, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(ids)


def test_an_expired_lease_lets_another_take_over_and_fences_the_first(ledger: Ledger, clock: Clock) -> None:
    """The second claim has a higher token; the first worker can then neither renew nor finish nor write effects."""
    job = submit(ledger)
    first = ledger.claim(job.id, "a", 5)
    assert first is not None
    clock.now += 6
    second = ledger.claim(job.id, "b", 5)
    assert second is not None
    assert second.token == first.token + 1
    effects: list[str] = []
    assert ledger.renew([first], 5) == {job.id}
    assert not ledger.finish(first, "done", within=lambda _: effects.append("first"))
    assert ledger.finish(second, "done", within=lambda _: effects.append("second"))
    assert effects == ["second"]
    assert not ledger.finish(second, "done"), "a job ends once"


def test_a_renewed_lease_keeps_the_job(ledger: Ledger, clock: Clock) -> None:
    """A worker that renews is left alone however long it takes."""
    job = submit(ledger)
    claim = ledger.claim(job.id, "a", 5)
    assert claim is not None
    for _ in range(5):
        clock.now += 4
        assert ledger.renew([claim], 5) == set()
    assert ledger.claim(job.id, "b", 5) is None
    assert sweep(ledger, lambda _: None, nothing_pending).ended == []
    assert ledger.get(job.id).state == "running"


def test_effects_roll_back_with_the_end(ledger: Ledger) -> None:
    """When writing the effect fails the job is not done either."""
    job = submit(ledger)
    claim = ledger.claim(job.id, "a", 5)
    assert claim is not None

    def fail(_: sa.Connection) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        ledger.finish(claim, "done", within=fail)
    assert ledger.get(job.id).state == "running"


def test_the_same_idempotency_key_gives_the_same_job(ledger: Ledger) -> None:
    """A client that sends twice gets one job, also after it ended."""
    first = submit(ledger, idempotency_key="k1")
    claim = ledger.claim(first.id, "a", 5)
    assert claim is not None
    ledger.finish(claim, "done")
    assert submit(ledger, idempotency_key="k1").id == first.id
    assert submit(ledger, idempotency_key="k2").id != first.id


def test_a_lane_carries_one_active_job(ledger: Ledger) -> None:
    """While a lane's job is active the next is refused with its id; afterwards the lane is free."""
    job = submit(ledger, lane="chat:s:alice")
    with pytest.raises(LaneBusy) as busy:
        submit(ledger, lane="chat:s:alice")
    assert busy.value.job_id == job.id
    ledger.stop(job.id)
    submit(ledger, lane="chat:s:alice")


def test_a_full_pool_refuses_with_an_estimate(ledger: Ledger, clock: Clock) -> None:
    """At its limit the pool says how many wait and, once jobs were measured, for how long."""
    done = submit(ledger)
    claim = ledger.claim(done.id, "a", 5)
    assert claim is not None
    clock.now += 3
    ledger.finish(claim, "done")
    for _ in range(4):
        submit(ledger, waiting_max=4)
    with pytest.raises(PoolFull) as full:
        submit(ledger, waiting_max=4)
    assert full.value.waiting == 4
    assert full.value.wait_s == pytest.approx(3 * (5 - 2) / 2)


def test_the_queue_is_first_in_first_out(ledger: Ledger, clock: Clock) -> None:
    """Positions follow the order of acceptance and shrink as jobs are taken."""
    ids = []
    for _ in range(3):
        ids.append(submit(ledger).id)
        clock.now += 1
    assert ledger.positions("chat") == {ids[0]: 1, ids[1]: 2, ids[2]: 3}
    ledger.claim(ids[0], "a", 5)
    assert ledger.positions("chat") == {ids[1]: 1, ids[2]: 2}


def test_stop_ends_a_waiting_job_at_once(ledger: Ledger) -> None:
    """A queued job that is stopped can no longer be claimed, and stopping again changes nothing."""
    job = submit(ledger)
    assert ledger.stop(job.id).state == "cancelled"
    assert ledger.claim(job.id, "a", 5) is None
    assert ledger.stop(job.id).state == "cancelled"
    with pytest.raises(UnknownJob):
        ledger.stop("nobody")


def test_stop_of_a_running_job_is_seen_by_its_owner(ledger: Ledger) -> None:
    """The owner reads it in the ledger even when the channel missed it, and only the owner's jobs are listed."""
    job, other = submit(ledger), submit(ledger)
    ledger.claim(job.id, "a", 5)
    ledger.claim(other.id, "b", 5)
    assert ledger.stop(job.id).state == "running"
    ledger.stop(other.id)
    assert ledger.stops("a") == {job.id}


def test_a_stopped_job_of_a_dead_worker_is_cancelled_not_rerun(ledger: Ledger) -> None:
    """Nobody wants its answer any more."""
    job = submit(ledger)
    ledger.claim(job.id, "a", 5)
    ledger.stop(job.id)
    assert [released.state for released in ledger.release_owner("a")] == ["cancelled"]


def test_a_dead_worker_frees_exactly_its_jobs(ledger: Ledger) -> None:
    """Its running jobs wait again at once; the jobs of others stay theirs."""
    mine, theirs = submit(ledger), submit(ledger)
    ledger.claim(mine.id, "a", 500)
    ledger.claim(theirs.id, "b", 500)
    assert [job.id for job in ledger.release_owner("a")] == [mine.id]
    assert ledger.get(mine.id).state == "queued"
    assert ledger.get(theirs.id).state == "running"
    assert ledger.claim(mine.id, "c", 5) is not None


def test_a_job_that_kills_its_workers_is_buried_and_can_be_revived(ledger: Ledger) -> None:
    """After attempts_max starts it is dead, listed with its reason, and only a person brings it back."""
    job = submit(ledger, attempts_max=3)
    for attempt in range(3):
        assert ledger.claim(job.id, f"w{attempt}", 500) is not None
        ledger.release_owner(f"w{attempt}")
    assert ledger.get(job.id).state == "dead"
    assert ledger.claim(job.id, "w4", 5) is None
    assert [(dead.id, dead.error) for dead in ledger.dead()] == [(job.id, "worker w2 died")]
    assert ledger.revive(job.id, 600).state == "queued"
    assert ledger.claim(job.id, "w5", 5) is not None


def test_a_poisonous_job_buries_nobody_but_itself(ledger: Ledger) -> None:
    """Jobs that share a worker with one that kills it again and again are all still answered."""
    poison, *others = [submit(ledger, attempts_max=3) for _ in range(4)]
    for life in range(20):
        claims = [ledger.claim(job.id, f"w{life}", 500) for job in (poison, *others)]
        if claims[0] is not None:
            ledger.release_owner(f"w{life}")
            continue
        for claim in claims:
            if claim is not None:
                ledger.finish(claim, "done")
    assert ledger.get(poison.id).state == "dead"
    assert [ledger.get(job.id).state for job in others] == ["done"] * 3


def test_last_attempts_take_turns_on_a_worker_and_the_waiting_one_is_sent_again(ledger: Ledger) -> None:
    """Two suspects never run side by side; the one that waits gets a new hint in the sweeper's next round."""
    first, second = submit(ledger, attempts_max=2), submit(ledger, attempts_max=2)
    for job in (first, second):
        assert ledger.claim(job.id, "a", 500) is not None
    ledger.release_owner("a")
    running = ledger.claim(first.id, "b", 500)
    assert running is not None
    sent: list[str] = []
    sweep(ledger, lambda record: sent.append(record.id), lambda _: 99)
    sent.clear()
    assert ledger.claim(second.id, "b", 500) is None
    sweep(ledger, lambda record: sent.append(record.id), lambda _: 99)
    assert sent == [second.id]
    ledger.finish(running, "done")
    assert ledger.claim(second.id, "b", 500) is not None


def test_a_failed_attempt_waits_before_the_next(ledger: Ledger, clock: Clock) -> None:
    """`not_before` holds the job back, and the sweeper sends its hint when it is due."""
    job = submit(ledger, attempts_max=2)
    claim = ledger.claim(job.id, "a", 5)
    assert claim is not None
    assert ledger.retry_later(claim, "engine hiccup", 10) == "queued"
    assert ledger.claim(job.id, "a", 5) is None
    sent: list[str] = []
    sweep(ledger, lambda record: sent.append(record.id), nothing_pending)
    assert sent == []
    clock.now += 11
    sweep(ledger, lambda record: sent.append(record.id), lambda _: 99)
    assert sent == [job.id], "a hint that was never sent goes out however long the queue is"
    claim = ledger.claim(job.id, "a", 5)
    assert claim is not None
    assert ledger.retry_later(claim, "engine hiccup", 10) == "dead"


def test_handing_back_costs_no_attempt(ledger: Ledger) -> None:
    """A worker that is stopped a hundred times does not bury its jobs."""
    job = submit(ledger, attempts_max=2)
    for _ in range(5):
        claim = ledger.claim(job.id, "a", 5)
        assert claim is not None
        assert ledger.hand_back(claim)
    assert ledger.get(job.id).attempts == 0


def test_a_lost_hint_is_sent_again(ledger: Ledger, clock: Clock) -> None:
    """A job whose hint is nowhere (broker flushed) gets a new one; one whose hint still waits does not."""
    job = submit(ledger)
    sent: list[str] = []
    clock.now += 6
    sweep(ledger, lambda record: sent.append(record.id), lambda _: 1)
    assert sent == []
    sweep(ledger, lambda record: sent.append(record.id), nothing_pending)
    assert sent == [job.id]
    sweep(ledger, lambda record: sent.append(record.id), nothing_pending)
    assert sent == [job.id], "not again before its time"


def test_a_broker_that_is_down_leaves_the_job_for_the_next_round(ledger: Ledger, clock: Clock) -> None:
    """The sweep raises what `send` raised, and the job is still to be sent afterwards."""
    job = submit(ledger)
    clock.now += 6

    def refuse(_: JobRecord) -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        sweep(ledger, refuse, nothing_pending)
    sent: list[str] = []
    sweep(ledger, lambda record: sent.append(record.id), nothing_pending)
    assert sent == [job.id]


def test_the_sweeper_frees_jobs_whose_worker_went_silent(ledger: Ledger, clock: Clock) -> None:
    """An expired lease puts the job back on the queue without anybody seeing the worker die."""
    job = submit(ledger)
    ledger.claim(job.id, "a", 5)
    clock.now += 6
    sent: list[str] = []
    swept = sweep(ledger, lambda record: sent.append(record.id), nothing_pending)
    assert sent == [job.id]
    assert swept.ended == []


def test_the_deadline_ends_waiting_and_running_jobs(ledger: Ledger, clock: Clock) -> None:
    """Both fail with the reason, are reported once, and the worker that still runs one is fenced off."""
    waiting, running = submit(ledger, deadline_s=10.0), submit(ledger, deadline_s=10.0)
    claim = ledger.claim(running.id, "a", 500)
    assert claim is not None
    clock.now += 11
    ended = sweep(ledger, lambda _: None, nothing_pending).ended
    assert {job.id: job.state for job in ended} == {waiting.id: "failed", running.id: "failed"}
    assert not ledger.finish(claim, "done")
    assert sweep(ledger, lambda _: None, nothing_pending).ended == []


def test_old_ended_jobs_are_forgotten_and_dead_ones_kept(ledger: Ledger, clock: Clock) -> None:
    """The table does not grow for ever; what needs a person's eye stays."""
    done, dead = submit(ledger), submit(ledger, attempts_max=1)
    claim = ledger.claim(done.id, "a", 5)
    assert claim is not None
    ledger.finish(claim, "done")
    ledger.claim(dead.id, "b", 5)
    ledger.release_owner("b")
    clock.now += 100
    assert forget_ended(ledger, keep_s=50) == 1
    with pytest.raises(UnknownJob):
        ledger.get(done.id)
    assert ledger.get(dead.id).state == "dead"


def test_migrating_twice_changes_nothing_and_matches_the_tables(database_url: str, any_database: Database) -> None:
    """The migrations build exactly the tables that the code declares."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    migrate(database_url)
    with any_database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": is_ours})
        assert compare_metadata(context, metadata) == []


def test_what_a_job_works_on_stands_beside_its_row(ledger: Ledger, any_database: Database) -> None:
    """An attachment is accepted with its job and goes when it ended; a dead job keeps it, to be tried again."""
    kept: dict[str, str] = {}
    for state in ("done", "failed", "cancelled", "dead", "queued"):
        record = submit(ledger, attachment=state.encode())
        with any_database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.id == record.id).values(state=state))
        kept[state] = record.id
    assert read_attachment(any_database, kept["done"]) == b"done"
    assert forget_attachments(any_database) == 3
    assert forget_attachments(any_database) == 0
    assert {state for state, job_id in kept.items() if read_attachment(any_database, job_id)} == {"dead", "queued"}
