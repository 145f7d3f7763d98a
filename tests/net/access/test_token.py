"""Tokens: what is kept of them, how they are compared, and that nothing shows them."""

import base64

import pytest
from hypothesis import given, strategies as st

from hstreamlite.net.access.config import TokenConfig
from hstreamlite.net.access.token import (
    TOKEN_CHARACTERS_MAX,
    Tokens,
    hash_of,
    new_token,
    token_in,
)


def test_a_token_gives_its_role_and_a_wrong_one_none() -> None:
    one, two = new_token()[0], new_token()[0]
    tokens = Tokens([("billing", hash_of(one)), ("shop", hash_of(two)), ("shop", hash_of(two))])
    assert tokens.role_of(one) == "billing"
    assert tokens.role_of(two) == "shop"
    assert tokens.role_of(new_token()[0]) is None
    assert tokens.role_of("") is None
    assert Tokens([]).role_of(one) is None


@given(st.text(max_size=80))
def test_no_text_but_the_token_is_taken_for_it(text: str) -> None:
    token = "t" * 40
    assert (Tokens([("a", _HASH)]).role_of(text) is not None) == (text == token)


_HASH = hash_of("t" * 40)


def test_the_same_token_is_hashed_to_another_text_each_time() -> None:
    token, _ = new_token()
    hashes = {hash_of(token) for _ in range(10)}
    assert len(hashes) == 10
    assert not any(token in text for text in hashes)


def test_a_token_with_a_user_is_what_clients_send_for_user_and_password() -> None:
    token, secret = new_token("ada")
    assert base64.b64decode(token).decode() == f"ada:{secret}"
    for user in ("", "a:b", "a\nb"):
        with pytest.raises(ValueError, match="user's name"):
            new_token(user)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Basic abc", "abc"),
        ("basic abc", "abc"),
        ("Bearer  abc ", "abc"),
        ("BEARER abc", "abc"),
        ("abc", None),
        ("Basic", None),
        ("Basic ", None),
        ("Digest abc", None),
        ("", None),
        ("Bearer " + "x" * (TOKEN_CHARACTERS_MAX + 1), None),
    ],
)
def test_a_header_holds_a_token_behind_its_scheme(header: str, token: str | None) -> None:
    assert token_in(header) == token


@pytest.mark.parametrize(
    "text", ["", "secret", "sha256:00:00", "md5:" + "0" * 32 + ":" + "0" * 64, _HASH[:-2], None, 7]
)
def test_what_is_no_hash_is_refused_without_being_told(text: object) -> None:
    with pytest.raises(ValueError, match="hash of a token must be") as refused:
        TokenConfig(role="a", hash=text)
    assert text in ("", None, 7) or str(text) not in str(refused.value).replace("sha256:SALT", "")


@pytest.mark.parametrize("token", ["short", "x" * 5000, "with spaces " * 5, "é" * 40, "a\n" * 20])
def test_a_token_that_is_weak_or_fits_in_no_header_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="a token must") as refused:
        hash_of(token)
    assert token not in str(refused.value)


def test_neither_token_nor_hash_shows_in_a_repr() -> None:
    token, _ = new_token()
    text = hash_of(token)
    config = TokenConfig(role="billing", hash=text)
    shown = repr(config) + str(config) + repr(Tokens([("billing", text)]))
    assert "billing" in shown
    assert not any(part in shown for part in (token, text, *text.split(":")[1:]))
