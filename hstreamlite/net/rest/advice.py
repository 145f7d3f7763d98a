"""Errors in words of HTTP, where the advice of their message is for those who write Python."""

from __future__ import annotations

from urllib.parse import quote

from hstreamlite import errors


def advised(error: BaseException, message: str) -> str:
    """Return the message of an error, with advice that can be followed here."""
    match error:
        case errors.StreamNotFound():
            return f"There is no stream {error.stream!r}; PUT /v1/streams/NAME makes one."
        case errors.SubscriptionNotFound():
            return (
                f"There is no subscription {error.subscription!r}; PUT /v1/subscriptions/NAME "
                "makes one."
            )
        case errors.StreamExists():
            path = f"/v1/streams/{quote(error.stream)}"
            return f"Stream {error.stream!r} exists; to take it as it is, {_taken(path)}."
        case errors.SubscriptionExists():
            path = f"/v1/subscriptions/{quote(error.subscription)}"
            return (
                f"Subscription {error.subscription!r} exists; to take it as it is, {_taken(path)}."
            )
        case errors.StreamInUse() | errors.SubscriptionInUse():
            return message.replace("pass force=True", "add ?force=true")
    return message


def _taken(path: str) -> str:
    return f'PUT {path} with "existsOk": true'
