"""Request handlers: streams, subscriptions, authorization."""
