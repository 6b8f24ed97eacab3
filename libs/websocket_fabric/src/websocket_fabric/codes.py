"""Close codes (RFC 6455, section 7.4, and its registry). Holds numbers only."""

from __future__ import annotations

NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, NO_CODE, ABNORMAL = 1000, 1001, 1002, 1003, 1005, 1006
BAD_TEXT, POLICY, TOO_BIG, INTERNAL_ERROR, TRY_AGAIN_LATER = 1007, 1008, 1009, 1011, 1013
SENDABLE = frozenset([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014])


def may_be_sent(code: int) -> bool:
    """Whether a closing frame may carry this code: those of the registry, and an application's 3000 to 4999."""
    return code in SENDABLE or 3000 <= code <= 4999


class Violation(Exception):
    """The peer broke the protocol; `code` is the close code that says how."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason
