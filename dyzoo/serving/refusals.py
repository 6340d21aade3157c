"""Requests that get no detections, and why; each is one line to the client."""

from __future__ import annotations

RETRY_AFTER_S = 1
LONGEST = 300


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        message: one line for the client.
        headers: further ones of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def busy(what: str) -> Refusal:
    """The refusal of a request that would be taken a little later."""
    return Refusal(503, f"{what}: try again later", {"Retry-After": str(RETRY_AFTER_S)})
