"""How much is tried, from the environment.

HYPOTHESIS_PROFILE names the examples of properties (conftest.py); of what is enumerated ``brief``
tries a sample and ``nightly`` more. HSTREAMLITE_LONG=1 tries ten times as many crash states.
"""

from __future__ import annotations

import os

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
BRIEF = PROFILE == "brief"
NIGHTLY = PROFILE == "nightly"
TALLIED = PROFILE in ("ci", "nightly")
"""The examples are always the same, or very many: all that is to happen in them does."""
LONG = os.environ.get("HSTREAMLITE_LONG") == "1"


def of(usual: int, brief: int, nightly: int | None = None) -> int:
    """Return how many, or how far apart, what is tried in this run."""
    if BRIEF:
        return brief
    return usual if nightly is None or not NIGHTLY else nightly
