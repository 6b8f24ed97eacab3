"""The whole reef as flat tables of plain values, and what differs between two of them: what is told live.

At 96 devices a board is some 50 KB of JSON, and a second in which all of them work changes a tenth of it; so a client
is told a whole board once, and then the fields that changed (tests/unit/reef/test_board.py holds both sizes).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from reef.contracts.events import DeviceChange, DeviceNotice, SystemView
from reef.contracts.system import JobView, SystemStatus
from reef.observing.overview import DOWN

Row = dict[str, Any]
Table = dict[str, Row]
_APART = {"pools", "unplaced", "at", "gateway", "sockets_open"}
"""Told elsewhere in the board, or only by the web process itself."""


class Board(msgspec.Struct, frozen=True):
    """One look. `devices` by node, `pools` by name, `jobs` by id."""

    at: float
    reef: Row
    pools: Table
    devices: Table
    jobs: Table


def board(status: SystemStatus, listed: Iterable[JobView]) -> Board:
    """This status and these jobs as tables."""
    plain = msgspec.to_builtins(status)
    devices = [device for pool in plain["pools"] for device in pool.pop("devices")] + plain["unplaced"]
    return Board(
        at=status.at,
        reef={name: value for name, value in plain.items() if name not in _APART},
        pools={pool["name"]: pool for pool in plain["pools"]},
        devices={device["node"]: device for device in devices},
        jobs={job.id: msgspec.to_builtins(job) for job in listed},
    )


def whole(now: Board) -> SystemView:
    """Everything, for who knows nothing yet."""
    return SystemView(
        at=now.at, snapshot=True, reef=now.reef, pools={**now.pools}, devices={**now.devices}, jobs={**now.jobs}
    )


def changes(before: Board, now: Board) -> SystemView:
    """What makes `now` out of `before`; told too when nothing changed, so that a silence means something."""
    return SystemView(
        at=now.at,
        reef=_row(before.reef, now.reef),
        pools=_table(before.pools, now.pools),
        devices=_table(before.devices, now.devices),
        jobs=_table(before.jobs, now.jobs),
    )


def _table(before: Table, now: Table) -> dict[str, Row | None]:
    told: dict[str, Row | None] = {name: None for name in before if name not in now}
    for name, row in now.items():
        if changed := _row(before.get(name, {}), row):
            told[name] = changed
    return told


def _row(before: Row, now: Row) -> Row:
    return {name: value for name, value in now.items() if name not in before or before[name] != value}


class Watchman:
    """Tells what happened to devices from one look to the next. Remembers which of them are to come back."""

    def __init__(self) -> None:
        self._away: set[str] = set()

    def notices(self, before: Board, now: Board) -> list[DeviceNotice]:
        """What a person should be told. A worker that died and was started again between two looks is told too."""
        told = []
        for node, device in now.devices.items():
            earlier = before.devices.get(node)
            if earlier is not None and (change := self._change(node, earlier, device)):
                told.append(DeviceNotice(node=node, change=change, message=_sentence(device, change), at=now.at))
        return told

    def _change(self, node: str, before: Row, now: Row) -> DeviceChange | None:
        if now["state"] in DOWN and before["state"] != now["state"]:
            self._away.add(node)
            return "gone" if now["state"] == "missing" else "failed"
        if before["pid"] and now["pid"] and before["pid"] != now["pid"]:
            if now["state"] != "ready":
                self._away.add(node)
            return "restarted"
        if now["fallback"] and not before["fallback"]:
            return "fallback"
        if now["state"] == "ready" and node in self._away:
            self._away.discard(node)
            return "back"
        return None


def _sentence(device: Row, change: DeviceChange) -> str:
    name = device["node"]
    why = device["last_fault"] or device["note"]
    because = f": {why}" if why and change in ("failed", "fallback") else ""
    return {
        "failed": f"{name} failed{because}",
        "gone": f"{name} is gone: no worker reports for this device",
        "restarted": f"The worker of {name} ended and was started again",
        "back": f"{name} serves again",
        "fallback": f"The CPU does the work of {name}{because}",
    }[change].rstrip(".") + "."
