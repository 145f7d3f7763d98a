"""What a role may do, decided from grants alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hstreamlite.net.access.config import ACTIONS, Action, GrantConfig

Kind = Literal["stream", "subscription"]
EVERYONE = "*"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call. ``trusted``: whoever it is, it may do everything."""

    role: str
    trusted: bool = False


class Policy:
    """The grants of a server. Without any, everybody who is known may do everything."""

    def __init__(self, grants: Sequence[GrantConfig]) -> None:
        self._open = not grants
        self._plain: set[tuple[str, str]] = set()
        self._named: dict[tuple[str, str, str], tuple[str, ...]] = {}
        for grant in grants:
            for action in grant.actions:
                self._plain.add((grant.role, action))
                for kind, beginnings in (
                    ("stream", grant.streams),
                    ("subscription", grant.subscriptions),
                ):
                    key = grant.role, action, kind
                    self._named[key] = (*self._named.get(key, ()), *beginnings)

    def allows(
        self, caller: Caller, action: Action | None, kind: Kind | None, name: str | None = None
    ) -> bool:
        """Tell whether a caller may do this to the stream or subscription of a name.

        No kind: to the server. No action: whether it may do anything at all to it. No name: to one
        whose name is not known, so only who may do it to all may.
        """
        if self._open or caller.trusted:
            return True
        roles = caller.role, EVERYONE
        actions = (action,) if action is not None else ACTIONS
        if kind is None:
            return any((role, each) in self._plain for role in roles for each in actions)
        beginnings = (
            beginning
            for role in roles
            for each in actions
            for beginning in self._named.get((role, each, kind), ())
        )
        if name is None:
            return "" in beginnings
        return any(map(name.startswith, beginnings))
