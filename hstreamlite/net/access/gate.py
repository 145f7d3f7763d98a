"""The gate: every call of every service passes it before its servicer sees a request.

It stands around the servicers and not around gRPC, so that HTTP, which calls the same servicers,
passes it, too.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from hstreamlite.errors import PermissionDenied, Unauthenticated
from hstreamlite.net.access.config import Action, GrantConfig, TokenConfig
from hstreamlite.net.access.needs import CALLS, Call, Need, Source, asked
from hstreamlite.net.access.policy import Caller, Kind, Policy
from hstreamlite.net.access.token import Tokens, token_in

OWNER = Caller("owner", trusted=True)
"""Who may open the socket in the store's directory may open its files, too."""

CALLER: ContextVar[Caller] = ContextVar("hstreamlite_caller")
"""Who makes the call that is being served."""


class Names(Protocol):
    """Knows what stands behind numbers and ids of a request."""

    def stream_of_shard(self, shard: int) -> str | None: ...

    def stream_of_reader(self, reader: str) -> str | None: ...


class Gate:
    """Knows callers, and lets them do what they may."""

    def __init__(
        self, tokens: Sequence[TokenConfig], grants: Sequence[GrantConfig], names: Names
    ) -> None:
        self._tokens = Tokens((token.role, token.hash) for token in tokens)
        self._policy = Policy(grants)
        self._names = names
        self.limited = bool(tokens or grants)
        """Whether there is anything that not everybody may do."""
        self.refused: Counter[str] = Counter()
        """How many calls were refused, by reason: unauthenticated, permission."""

    def identify(
        self, authorization: str | None, certificate: str | None, *, local: bool = False
    ) -> Caller:
        """Return who shows this header, and this common name of a verified certificate.

        ``local``: came in by the socket in the store's directory. A token says more than the
        certificate of the program that carries it, so its role counts. Unauthenticated if neither
        says who it is, or a token is wrong.
        """
        if local or not self.limited:
            return OWNER
        if authorization is not None and self._tokens:
            token = token_in(authorization)
            role = None if token is None else self._tokens.role_of(token)
            if role is None:
                self.refused["unauthenticated"] += 1
                raise Unauthenticated("its token is not known here")
            return Caller(role)
        if certificate:
            return Caller(certificate)
        self.refused["unauthenticated"] += 1
        wanted = "a token" if self._tokens else "a certificate"
        raise Unauthenticated(f"it came without {wanted}")

    def require(self, action: Action | None, kind: Kind | None = None, name: str = "") -> None:
        """Raise PermissionDenied unless the caller of the call being served may do this."""
        if self.limited:
            self._require(self._caller(), action, kind, name)

    def allows(self, action: Action) -> bool:
        """Tell whether the caller of the call being served may do this to the server."""
        return not self.limited or self._policy.allows(self._caller(), action, None)

    @staticmethod
    def _caller() -> Caller:
        caller = CALLER.get(None)
        if caller is None:
            raise Unauthenticated("nobody asked who it is")
        return caller

    def _require(
        self, caller: Caller, action: Action | None, kind: Kind | None, name: str | None
    ) -> None:
        if not self._policy.allows(caller, action, kind, name):
            self.refused["permission"] += 1
            raise PermissionDenied(caller.role, action or "see", kind or "server", name or "")

    def admit(self, caller: Caller, call: Call, request: Message) -> None:
        """Raise PermissionDenied unless a caller may make a call with this request."""
        for need in call.needs:
            if need.source is None:
                self._require(caller, need.action, None, None)
                continue
            value = asked(request, need)
            if value is not None:
                self._require(caller, need.action, *self._named(need.source, value))

    def _named(self, source: Source, value: Any) -> tuple[Kind, str | None]:
        if source == "shard":
            return "stream", self._names.stream_of_shard(value)
        if source == "reader":
            return "stream", self._names.stream_of_reader(value)
        return source, value

    def show(self, caller: Caller, call: Call, answer: Any) -> Any:
        """Return an answer without what a caller may not know of."""
        if call.shown is None:
            return answer
        source, field, name = call.shown
        entries = getattr(answer, field)
        kept = [
            entry
            for entry in entries
            if self._policy.allows(
                caller, None, *self._named(source, getattr(entry, name) if name else entry)
            )
        ]
        if len(kept) < len(entries):
            answer = type(answer)()
            getattr(answer, field).extend(kept)
        return answer

    def guard(
        self,
        descriptor: ServiceDescriptor,
        servicer: object,
        identify: Callable[[Any], Caller],
        calls: Mapping[str, Mapping[str, Call]] = CALLS,
    ) -> object:
        """Return a servicer that does what this one does for those who may ask it to.

        ``identify`` says who asks, from the context of a call. A method of which the table of calls
        does not know is refused to everybody.
        """
        guarded = _Guarded()
        known = calls.get(descriptor.full_name, {})
        for method in descriptor.methods:
            inner = getattr(servicer, method.name)
            checked = _Method(self, method, known.get(method.name), identify)
            if method.server_streaming:
                around = checked.many if inspect.isasyncgenfunction(inner) else checked.writing
            else:
                around = checked.one
            setattr(guarded, method.name, around(inner))
        return guarded


class _Guarded:
    """A servicer behind the gate: its methods are set one by one."""


class _Method:
    """One method behind the gate."""

    def __init__(
        self,
        gate: Gate,
        method: MethodDescriptor,
        call: Call | None,
        identify: Callable[[Any], Caller],
    ) -> None:
        self._gate = gate
        self._call = call or Call((Need("admin"),))
        self._known = call is not None
        self._name = method.full_name
        self._identify = identify
        self._many_requests = bool(method.client_streaming)

    def _enter(self, request: Any, context: Any) -> tuple[Caller, Any, Any]:
        """Return who asks, and request and context that are checked."""
        caller = self._identify(context)
        if not (self._known or caller.trusted):
            raise PermissionDenied(caller.role, "call", "method", self._name)
        CALLER.set(caller)
        if not self._many_requests:
            self._gate.admit(caller, self._call, request)
            return caller, request, context
        check = _Checked(self._gate, caller, self._call)
        return caller, check.all(request), _Reading(context, check)

    def one(self, inner: Any) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            caller, request, context = self._enter(request, context)
            return self._gate.show(caller, self._call, await inner(request, context))

        return answer

    def many(self, inner: Any) -> Any:
        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            _, request, context = self._enter(request, context)
            responses = inner(request, context)
            try:
                async for response in responses:
                    yield response
            finally:
                await responses.aclose()

        return answers

    def writing(self, inner: Any) -> Any:
        async def write(request: Any, context: Any) -> None:
            _, request, context = self._enter(request, context)
            await inner(request, context)

        return write


class _Checked:
    """The requests of one call that has many: what a later one names is checked as the first."""

    def __init__(self, gate: Gate, caller: Caller, call: Call) -> None:
        self._gate = gate
        self._caller = caller
        self._first = call
        later = (Need(each.action, each.source, each.field, optional=True) for each in call.needs)
        self._later = Call(tuple(later))
        self._begun = False

    def one(self, request: Any) -> Any:
        if isinstance(request, Message):
            self._gate.admit(self._caller, self._later if self._begun else self._first, request)
            self._begun = True
        return request

    async def all(self, requests: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield self.one(request)


class _Reading:
    """The context of a call whose requests are read from it."""

    def __init__(self, context: Any, check: _Checked) -> None:
        self._context = context
        self._check = check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """Return the next request, checked."""
        return self._check.one(await self._context.read())
