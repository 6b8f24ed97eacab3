"""What the Autobahn cases of kosoku are, for whichever end is tested."""

from __future__ import annotations

from collections.abc import Sequence

import kosoku
import pytest

CORE = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*")
CORE_CASES = 301
DEFLATE = ("12.*", "13.*")
DEFLATE_CASES = 216
DEFLATE_SOME = ("12.1.1", "12.2.4", "12.3.5", "12.4.6", "12.5.7", "13.1.3", "13.3.5", "13.4.6", "13.7.7")
"""One of nearly every kind. All of them are a thousand messages each, of up to 128 KB, and take minutes."""

LEAVES_FILES_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""kosoku's cases of compression read their texts from files that they do not close."""


def failed(results: Sequence[kosoku.CaseResult]) -> list[str]:
    """Cases that did not end well, or not by the book. Informational ones have no book."""
    good = {"OK", "NON-STRICT", "INFORMATIONAL"}
    return [
        f"{one.case_id}: {one.behavior.value}, closing {one.behavior_close.value}"
        for one in results
        if one.behavior.value not in good or one.behavior_close.value not in good - {"NON-STRICT"}
    ]
