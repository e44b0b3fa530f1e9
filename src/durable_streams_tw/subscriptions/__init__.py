"""Subscriptions: webhook calls, wake tokens and signing keys (PROTOCOL.md §6, §7).

`protocol.subscriptions.state` decides all changes of a subscription, in transactions of the store;
this package carries out their effects outside the store.
"""
