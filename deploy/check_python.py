"""Refuses a Python that the locked requirements cannot be installed for. Runs before .venv exists."""

import sys

OLDEST, NEWEST = (3, 11), (3, 12)

if not OLDEST <= sys.version_info[:2] <= NEWEST:
    sys.exit(
        f"Coral Reef needs Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}; {sys.executable} is "
        f"{sys.version_info[0]}.{sys.version_info[1]}. Name another one: make run PYTHON=python3.11"
    )
