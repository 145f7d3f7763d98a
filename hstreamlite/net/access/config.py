"""Settings of access: tokens, and what roles may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from hstreamlite.net.access.token import check_hash

Action = Literal["read", "append", "create", "delete", "consume", "monitor", "admin"]
"""``read``, ``append``: records of a stream. ``create``, ``delete``: streams and subscriptions;
to trim is to delete. ``consume``: receive, ack, seek, pause, redrive. ``monitor``: figures.
``admin``: commands to the server."""
ACTIONS: tuple[Action, ...] = get_args(Action)
ROLE_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenConfig:
    """A token that clients may show, and the role it gives them. A role may have several."""

    role: str
    hash: str = field(repr=False)
    """What `hstreamlite server --new-token` prints. The token itself is kept nowhere."""

    def __post_init__(self) -> None:
        check_role(self.role)
        check_hash(self.hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantConfig:
    """What a role may do, and where. What no grant allows is refused."""

    role: str
    """The common name of a client's certificate, or the role of its token; "*" for all."""
    actions: tuple[str, ...]
    """Of read, append, create, delete, consume, monitor and admin."""
    streams: tuple[str, ...] = ()
    """Beginnings of the names of streams; "" for all of them."""
    subscriptions: tuple[str, ...] = ()
    """Beginnings of the names of subscriptions; "" for all of them."""

    def __post_init__(self) -> None:
        check_role(self.role)
        for name in ("actions", "streams", "subscriptions"):
            texts = getattr(self, name)
            if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{name} of a grant must be a tuple of texts")
        for action in self.actions:
            if action not in ACTIONS:
                raise ValueError(
                    f"actions of a grant must be of {', '.join(ACTIONS)}, not {action!r}"
                )
        if not self.actions:
            raise ValueError(f"the grant to {self.role!r} allows no action; name some, or drop it")
        named = {"read", "append", "create", "delete", "consume"} & set(self.actions)
        if named and not self.streams and not self.subscriptions:
            raise ValueError(
                f"the grant to {self.role!r} says {', '.join(sorted(named))} but not where; give "
                'streams or subscriptions, [""] for all of them'
            )


def check_role(role: object) -> None:
    if not isinstance(role, str) or not 1 <= len(role) <= ROLE_MAX or not role.isprintable():
        raise ValueError(f"a role must be 1 to {ROLE_MAX} printable characters, not {role!r}")
