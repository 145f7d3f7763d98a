"""Tokens: made of 256 random bits, kept as a salted hash, compared in constant time.

A slow hash would protect what people think up; these are random, so a fast one serves, and a flood
of wrong tokens costs the server nothing. For the same reason a token of one's own must be long.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

TOKEN_BYTES = 32
TOKEN_CHARACTERS_MIN = 32
"""Of a token that somebody else made."""
TOKEN_CHARACTERS_MAX = 4096
_SCHEME = "sha256"
_SALT_BYTES = 16
_SCHEMES = ("basic", "bearer")


def new_token(user: str | None = None) -> tuple[str, str]:
    """Return a new token and the secret in it.

    With a user the token is what clients make of a user's name and a password, the secret: the
    text ``user:password`` in base64, as browsers and the Erlang client send it.
    """
    secret = secrets.token_urlsafe(TOKEN_BYTES)
    if user is None:
        return secret, secret
    if ":" in user or not user.isprintable() or not user:
        raise ValueError(f"a user's name must be printable and without a colon, not {user!r}")
    return base64.b64encode(f"{user}:{secret}".encode()).decode(), secret


def hash_of(token: str) -> str:
    """Return what a configuration holds of a token: ``sha256:salt:hash``, another each time."""
    if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX:
        raise ValueError(
            f"a token must have {TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} characters, not "
            f"{len(token)}; let `hstreamlite server --new-token` make one"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token must be printable ASCII without spaces, as it goes into a header")
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"{_SCHEME}:{salt.hex()}:{_digest(salt, token).hex()}"


def check_hash(text: object) -> tuple[bytes, bytes]:
    """Return salt and hash of a text by `hash_of`. ValueError, without the text, if it is none."""
    if isinstance(text, str):
        scheme, _, rest = text.partition(":")
        salt, _, digest = rest.partition(":")
        try:
            parts = bytes.fromhex(salt), bytes.fromhex(digest)
        except ValueError:
            parts = b"", b""
        if scheme == _SCHEME and list(map(len, parts)) == [
            _SALT_BYTES,
            hashlib.sha256().digest_size,
        ]:
            return parts
    raise ValueError(
        "hash of a token must be sha256:SALT:HASH as `hstreamlite server --new-token` prints it; "
        "what was given is kept out of this message, since it may be the token itself"
    )


def _digest(salt: bytes, token: str) -> bytes:
    return hmac.digest(salt, token.encode(errors="surrogatepass"), "sha256")


def one_of(authorizations: Iterable[str]) -> str | None:
    """Return the one ``authorization`` header, None if there is none.

    Several become one that holds no token: which of them counts is nothing to guess about, since
    what stands in between may have looked at another.
    """
    found = list(authorizations)
    return ", ".join(found) if found else None


def token_in(authorization: str) -> str | None:
    """Return the token of an ``authorization`` header, None if it holds none.

    HStreamDB's clients say ``Basic`` whatever the token is, others ``Bearer``.
    """
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    if scheme.lower() not in _SCHEMES or not 1 <= len(token) <= TOKEN_CHARACTERS_MAX:
        return None
    return token


class Tokens:
    """The tokens of a server, by the roles they give."""

    def __init__(self, hashes: Iterable[tuple[str, str]]) -> None:
        self._known = [(role, *check_hash(text)) for role, text in hashes]

    def __bool__(self) -> bool:
        return bool(self._known)

    def __repr__(self) -> str:
        return f"Tokens({len(self._known)} of roles {sorted({role for role, *_ in self._known})})"

    def role_of(self, token: str) -> str | None:
        """Return the role that a token gives, None if it gives none.

        Takes the same time whichever of the tokens it is, or none.
        """
        found = None
        for role, salt, digest in self._known:
            if hmac.compare_digest(_digest(salt, token), digest):
                found = role
        return found
