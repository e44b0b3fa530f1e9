"""Rules of streams: commands, what they do to a state, and the responses."""
