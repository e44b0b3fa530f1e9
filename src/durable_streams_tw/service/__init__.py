"""Service ``durable-streams`` of twistd: configuration, ports, startup and shutdown."""
