"""Waiting for the disk without holding up everybody: under gevent a blocking call stops every other request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent


def outside(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call this in a thread of its own while other requests go on. Raises what it raises."""
    return gevent.get_hub().threadpool.apply(function, arguments)
