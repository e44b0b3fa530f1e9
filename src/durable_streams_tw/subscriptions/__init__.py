"""Subscriptions: workers that are woken by webhooks, or by events on a wake stream
(PROTOCOL.md §6, §7).

What becomes of a subscription is decided in the store's transactions, by
`protocol.subscriptions.state`; here is what has to be done about it in the world outside.
"""
