"""Why a subscription delivers nothing, as one word."""

from __future__ import annotations

from typing import Final

REASONS: Final = {
    "paused": "paused",
    "no consumers": "no_consumers",
    "window full": "window_full",
    "own windows of all consumers full": "consumers_full",
    "span full": "span_full",
    "keys blocked": "keys_blocked",
    "damaged": "damaged",
}
"""How `GroupStats.blocked` begins, and the word for it; that there is nothing to deliver has none.
"""
OTHER: Final = "other"
WORDS: Final = (*REASONS.values(), OTHER)


def reason_of(blocked: str) -> tuple[str, str]:
    """Return the word, and the text that says more: both empty where nothing stalls."""
    if not blocked or blocked == "no records":
        return "", ""
    for begin, word in REASONS.items():
        if blocked.startswith(begin):
            return word, blocked.removeprefix(begin).lstrip(": ")
    return OTHER, blocked
