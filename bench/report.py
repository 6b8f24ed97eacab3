"""What a bench found, as text that can be pasted into a Markdown document and as JSON. Measures nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from bench.machine import Machine

RESULTS = Path(__file__).parent / "results"


class Goal(msgspec.Struct, frozen=True):
    """A stated goal and what was measured."""

    text: str
    found: str
    met: bool

    def line(self) -> str:
        """One line of Markdown."""
        return f"- {'met' if self.met else '**missed**'}: {self.text} (measured: {self.found})"


class Table(msgspec.Struct, frozen=True):
    """Rows of cells; the first column is text, the others are figures."""

    head: list[str]
    rows: list[list[str]]

    def lines(self) -> list[str]:
        """Markdown."""
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        return ["| " + " | ".join(row) + " |" for row in (self.head, rule, *self.rows)]


class Report(msgspec.Struct, kw_only=True):
    """The result of one bench."""

    name: str
    title: str
    command: str
    machine: Machine
    tables: list[Table] = []
    goals: list[Goal] = []
    notes: list[str] = []
    samples: dict[str, Any] = {}
    at: float = msgspec.field(default_factory=time.time)
    load_after: float = 0.0

    def markdown(self) -> str:
        """The whole report."""
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.at))
        parts = [f"### {self.title}", "", f"`{self.command}` · {day} · {self.machine.text(self.load_after)}", ""]
        for table in self.tables:
            parts += [*table.lines(), ""]
        if self.goals:
            parts += [*(goal.line() for goal in self.goals), ""]
        if self.notes:
            parts += [*(f"{note}  " for note in self.notes), ""]
        return "\n".join(parts)

    def save(self) -> Path:
        """Keep everything, samples included."""
        RESULTS.mkdir(exist_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.at))
        path = RESULTS / f"{stamp}-{self.name}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
        return path
