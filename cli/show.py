"""Output of the commands: a live progress bar on a terminal, plain lines everywhere else (pipes, CI, journals)."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

PLAIN_STEP_SHARE = 0.1
"""Without a terminal a bar is a line each time this much more is done."""


class Show:
    """Steps with progress. Used as a context; a bar that has ended leaves a line behind."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live = self.console.is_terminal
        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> Show:
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bars.stop()

    def calm(self) -> None:
        """No more progress from here on: the display stops redrawing itself."""
        if self._live:
            self._bars.stop()
            self._live = False

    def line(self, text: str = "") -> None:
        """A line that stays."""
        self._bars.console.print(text, markup=False)

    def good(self, text: str) -> None:
        """Something that is done."""
        self._bars.console.print(f"[green]✓[/] {_escape(text)}")

    def warn(self, text: str) -> None:
        """Something a person should know."""
        self._bars.console.print(f"[yellow]![/] {_escape(text)}")

    def progress(self, name: str, share: float | None, note: str) -> None:
        """How far something is: a share of 0..1, or None while that cannot be said."""
        if not self._live:
            self._progress_line(name, share, note)
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=None, note=note)
        total = None if share is None else 1.0
        self._bars.update(self._tasks[name], total=total, completed=share or 0.0, note=note)

    def done(self, name: str, text: str) -> None:
        """The end of a progress."""
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)
        self._said.pop(name, None)
        self.good(text)

    def _progress_line(self, name: str, share: float | None, note: str) -> None:
        said_share, said_note = self._said.get(name, (-1.0, ""))
        if share is None:
            if note == said_note:
                return
            self.line(f"  {name}: {note}")
        elif share - said_share >= PLAIN_STEP_SHARE or (share >= 1.0 > said_share):
            self.line(f"  {name}: {share:4.0%} {note}")
        else:
            return
        self._said[name] = (said_share if share is None else share, note)


def table(*columns: str) -> Table:
    """A table without lines; a column whose title begins with `>` is aligned to the right."""
    result = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        right = column.startswith(">")
        result.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return result


def size(count_bytes: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count_bytes < 1000 or unit == "GB":
            return f"{count_bytes:.0f} {unit}" if unit in ("B", "kB") else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1000
    raise AssertionError


def span(seconds: float) -> str:
    """A time span for people."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plain_console() -> Console:
    """A console that never wraps a table when its output is read by a program."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
