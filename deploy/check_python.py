"""Refuses an interpreter that the locked requirements cannot be installed for. Runs on any Python 3, before .venv exists."""

import sys

OLDEST, NEWEST = (3, 11), (3, 12)

if not OLDEST <= sys.version_info[:2] <= NEWEST:
    sys.exit(
        "Coral Reef needs Python %d.%d or %d.%d; %s is %d.%d. Name another one: make run PYTHON=python3.11"
        % (OLDEST + NEWEST + (sys.executable,) + sys.version_info[:2])
    )
