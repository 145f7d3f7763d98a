"""The store over the network. Nothing here is loaded by `import hstreamlite`."""

from __future__ import annotations


def needs(extra: str, error: ImportError) -> ImportError:
    """Return the error that says how to install what is missing."""
    return ImportError(
        f"This needs packages that are not installed (no module {error.name}); install them with: "
        f"pip install 'hstreamlite[{extra}]'",
        name=error.name,
    )
