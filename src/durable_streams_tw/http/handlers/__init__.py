"""Request handlers: stream operations, subscriptions, authorization."""
