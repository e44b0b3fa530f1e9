"""The command ``durable-streams-server``."""
