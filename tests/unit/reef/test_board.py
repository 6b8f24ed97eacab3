"""What is told live: a whole board once, then what differs; and which changes of a device a person hears of."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from reef.contracts.events import SystemView, encode
from reef.contracts.system import DeviceStatus, JobView, ModelStatus, PoolStatus, RunCounts, SystemStatus
from reef.observing.board import Board, Watchman, board, changes, whole

UNMOVED: dict[str, Any] = {"reef": {}, "pools": {}, "devices": {}, "jobs": {}}


def device(node: str = "pci-0", **fields: Any) -> DeviceStatus:
    said = {"node": node, "device": "pci:0", "kind": "edgetpu", "state": "ready", "pool": "chat", "pid": 7}
    return DeviceStatus(**(said | fields))


def job(job_id: str, **fields: Any) -> JobView:
    plain: dict[str, Any] = {"task": "t", "pool": "chat", "state": "running", "session_id": None, "attempts": 1}
    plain |= {"attempts_max": 3, "stop_requested": False, "created_at": 1.0, "started_at": 2.0}
    return JobView(id=job_id, **(plain | {"finished_at": None, "error": None} | fields))


def look(*devices: DeviceStatus, jobs: tuple[JobView, ...] = (), at: float = 1.0, dead: int = 0) -> Board:
    pool = PoolStatus(name="chat", queue="chat", streams=1, running=0, waiting=0, waiting_max=8, devices=list(devices))
    status = SystemStatus(
        version="1",
        model=ModelStatus(name="m", title="M", demo=False),
        pools=[pool],
        runs=RunCounts(0, 0, dead),
        flower_url="",
        database="sqlite",
        broker="ok",
        vectors="off",
        at=at,
    )
    return board(status, jobs)


def merged(known: dict[str, Any], event: SystemView) -> dict[str, Any]:
    """What a client has after an event, as docs/api.md says."""
    told = msgspec.json.decode(encode(event))
    known = {} if told.get("snapshot") else known
    result = {"reef": known.get("reef", {}) | told.get("reef", {})}
    for table in ("pools", "devices", "jobs"):
        rows = dict(known.get(table, {}))
        for name, row in told.get(table, {}).items():
            if row is None:
                rows.pop(name)
            else:
                rows[name] = rows.get(name, {}) | row
        result[table] = rows
    return result


def tables(one: Board) -> dict[str, Any]:
    plain = msgspec.json.decode(msgspec.json.encode(one))
    plain.pop("at")
    return plain


def test_a_client_that_follows_the_changes_has_the_whole_board() -> None:
    """Snapshot and changes, applied as the documentation says, give what a fresh snapshot gives."""
    looks = [
        look(device("a"), device("b", running=1), jobs=(job("1"), job("2"))),
        look(device("a", tokens_per_s=3.5), device("c"), jobs=(job("2", attempts=2),), at=2.0, dead=1),
        look(device("a", state="failed", note="cut off"), device("c"), at=3.0),
    ]
    known = merged({}, whole(looks[0]))
    assert known == tables(looks[0])
    for before, now in itertools.pairwise(looks):
        known = merged(known, changes(before, now))
        assert known == tables(now)


def test_only_what_differs_is_told() -> None:
    """One figure of one device: that figure; nothing at all: the time alone, which says that all is known."""
    before, now = look(device("a"), device("b")), look(device("a"), device("b", running=1), at=2.0)
    told = msgspec.to_builtins(changes(before, now))
    assert told == {"type": "system", "at": 2.0, "devices": {"b": {"running": 1}}}
    assert msgspec.to_builtins(changes(now, now)) == {"type": "system", "at": 2.0}


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ([{}, {}], []),
        ([{}, {"running": 1}, {"state": "draining"}], []),
        ([{}, {"state": "failed", "last_fault": "it is hot"}], ["failed"]),
        ([{}, {"state": "missing", "pid": 0}, {"state": "loading", "pid": 8}, {"pid": 8}], ["gone", "back"]),
        ([{}, {"state": "loading", "pid": 8}, {"pid": 8}], ["restarted", "back"]),
        ([{}, {"pid": 8}], ["restarted"]),
        ([{}, {"fallback": True}, {"fallback": True}], ["fallback"]),
        ([{}, {"state": "quarantined", "last_fault": "it is hot"}, {}], ["failed", "back"]),
        ([{"state": "loading"}, {}], []),
        ([{"state": "missing"}, {"state": "loading"}, {}], []),
    ],
)
def test_a_person_hears_of_faults_and_their_end(states: list[dict[str, Any]], told: list[str]) -> None:
    """Failed, gone, restarted and back are told once each; work, loading and an orderly end are no news."""
    watchman = Watchman()
    looks = [look(device(**fields)) for fields in states]
    heard = [notice for one, two in itertools.pairwise(looks) for notice in watchman.notices(one, two)]
    assert [notice.change for notice in heard] == told
    assert all("pci-0" in notice.message for notice in heard)


def test_96_devices_at_work_stay_small_on_the_wire() -> None:
    """A second in which every one of 96 devices has other figures costs less than 8 KB; a whole board under 64 KB."""
    before = look(*(device(f"pci-{n}", device=f"pci:{n}", model="some-model-of-a-name") for n in range(96)))
    now = look(
        *(
            device(f"pci-{n}", device=f"pci:{n}", model="some-model-of-a-name", running=1, tokens_per_s=n + 0.5)
            for n in range(96)
        )
    )
    assert len(encode(changes(before, now))) < 8_000
    assert len(encode(whole(now))) < 64_000
