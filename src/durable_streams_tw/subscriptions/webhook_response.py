"""Response of a webhook, and the errors of a request to one."""

from __future__ import annotations

from msgspec import Struct


class WebhookResponse(Struct, frozen=True):
    """Status and body of a webhook's response."""

    status: int
    body: bytes


class WebhookUnreachable(Exception):
    """The webhook's host name has no address."""


class WebhookResponseTooLarge(Exception):
    """The webhook's response exceeds `MAX_WEBHOOK_RESPONSE`."""
