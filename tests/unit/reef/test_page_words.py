"""Lists that the operator's page has in words of its own are the program's lists."""

from __future__ import annotations

import re
from pathlib import Path

from reef.contracts.jobs import JOBS
from reef.observing.overview import DOWN

WORDS = (Path(__file__).parents[3] / "app/ui/static/js/reef/words.js").read_text(encoding="utf-8")


def test_every_kind_of_job_has_words() -> None:
    """None is told by the name of its task, and no word is kept for a task that is gone."""
    assert set(re.findall(r'^  "(coralreef\.[\w.]+)": "[A-Z]', WORDS, flags=re.MULTILINE)) == {job.TASK for job in JOBS}


def test_the_page_knows_which_devices_serve_nothing() -> None:
    """The same states count as down in the page and in what is told to it."""
    listed = re.search(r"const DOWN = new Set\(\[(.*?)\]\)", WORDS)
    assert listed is not None
    assert set(re.findall(r'"(\w+)"', listed[1])) == set(DOWN)
