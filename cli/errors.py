"""What a command of `coral-reef` raises when it cannot go on: a sentence, and what to do next. Exit status 1."""

from __future__ import annotations

import click


class Problem(click.ClickException):
    """Something outside the program is wrong. Shown without a traceback."""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what)
        self.advice = advice

    def format_message(self) -> str:
        """What was wrong, then what to do."""
        return f"{self.message}\n{self.advice}" if self.advice else self.message

    def __str__(self) -> str:
        return self.format_message()
