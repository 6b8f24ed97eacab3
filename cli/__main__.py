"""`python -m cli` is the same as `coral-reef`."""

from __future__ import annotations

from cli.main import main

main(prog_name="coral-reef")
