"""The client: against the real streams in memory, and against servers that misbehave."""
