"""The ``durable-streams`` service of twistd: options, ports, start and stop."""
